INSERT INTO budgets (budget_id, name, document)
VALUES (%(budget_id)s, %(name)s, %(document)s)
RETURNING budget_id, name, document, counts_from, counted_at, created_at, version
