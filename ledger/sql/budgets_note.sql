INSERT INTO budget_changes (budget_id, who, what, detail)
VALUES (%(budget_id)s, %(who)s, %(what)s, %(detail)s)
