INSERT INTO key_changes (key_id, who, what, why, detail)
VALUES (%(key_id)s, %(who)s, %(what)s, %(why)s, %(detail)s)
