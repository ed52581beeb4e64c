SELECT budget_id, name, document, counts_from, counted_at, version
  FROM budgets
 WHERE name = %(name)s AND NOT removed
   FOR UPDATE
