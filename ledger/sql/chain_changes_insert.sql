INSERT INTO chain_changes (who, what, subject, why, detail)
VALUES (%(who)s, %(what)s, %(subject)s, %(why)s, %(detail)s)
