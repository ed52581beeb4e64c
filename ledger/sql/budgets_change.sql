UPDATE budgets SET document = %(document)s
 WHERE budget_id = %(budget_id)s
RETURNING budget_id, name, document, counts_from, counted_at, created_at, version
