-- What has been said of windows that still matter.
SELECT a.alert_id, a.budget_id, a.window_name, a.kind, a.threshold, a.round, a.amount,
       a.cleared_at IS NOT NULL AS cleared
  FROM alerts AS a
  JOIN budgets AS b USING (budget_id)
 WHERE NOT b.removed AND (a.window_ends_at > %(since)s OR a.window_ends_at IS NULL)
