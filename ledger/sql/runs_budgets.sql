-- The budgets of these ids that are still in force.
SELECT budget_id, name, document, counts_from, counted_at, created_at, version
  FROM budgets
 WHERE budget_id = ANY(%(budget_ids)s) AND NOT removed
