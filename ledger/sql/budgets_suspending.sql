SELECT name, document || jsonb_build_object('budget_id', budget_id, 'name', name, 'counts_from', counts_from,
                                            'version', version) AS document
  FROM budgets
 WHERE name = ANY(%(names)s) AND NOT removed AND document ->> 'on_exceed' = 'suspend'
