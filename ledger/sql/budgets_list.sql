SELECT budget_id, name, document, counts_from, counted_at, created_at, version
  FROM budgets
 WHERE NOT removed AND (%(name)s::text IS NULL OR name = %(name)s)
 ORDER BY document ->> 'limit_source', name
 LIMIT %(limit)s
