-- Budgets whose counters the ledger keeps, with the calls below `counts_from` being its own to add.
SELECT document || jsonb_build_object('budget_id', budget_id, 'name', name, 'counts_from', counts_from,
                                      'version', version) AS document
  FROM budgets
 WHERE NOT removed AND counted_at IS NOT NULL AND counts_from > %(counts_from_above)s
 ORDER BY budget_id
