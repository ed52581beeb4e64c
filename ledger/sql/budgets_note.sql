INSERT INTO budget_changes (budget_id, who, what, why, detail)
VALUES (%(budget_id)s, %(who)s, %(what)s, %(why)s, %(detail)s)
