INSERT INTO key_changes (key_id, who, what, why, detail)
SELECT key_id, %(who)s, %(what)s, %(why)s, detail
  FROM jsonb_to_recordset(%(rows)s) AS row (key_id text, detail jsonb)
