SELECT a.adjustment_id, a.budget_id, a.window_name, a.amount, a.expires_at_ms
  FROM adjustments AS a
 WHERE a.adjustment_id > %(adjustment_id)s
 ORDER BY a.adjustment_id
 LIMIT %(most)s
