UPDATE quarantined_keys SET replaced_by = %(replaced_by)s, grace_until = %(grace_until)s WHERE key_id = %(key_id)s
