DELETE FROM quarantined_keys WHERE key_id = %(key_id)s
RETURNING sha256, status, created_at, CASE WHEN replaced_by IS NOT NULL THEN grace_until END AS expires_at
