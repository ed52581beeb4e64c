UPDATE keys SET expires_at = %(expires_at)s WHERE key_id = %(key_id)s
