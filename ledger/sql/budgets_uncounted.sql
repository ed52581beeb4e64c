SELECT document || jsonb_build_object('budget_id', budget_id, 'name', name, 'counts_from', counts_from,
                                      'version', version) AS document
  FROM budgets
 WHERE NOT removed AND counted_at IS NULL
 ORDER BY budget_id
   FOR UPDATE
