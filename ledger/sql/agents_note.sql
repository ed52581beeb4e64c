INSERT INTO agent_changes (name, who, what, why, detail)
VALUES (%(name)s, %(who)s, %(what)s, %(why)s, %(detail)s)
