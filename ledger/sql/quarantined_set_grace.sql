UPDATE quarantined_keys SET grace_until = %(grace_until)s WHERE key_id = %(key_id)s
