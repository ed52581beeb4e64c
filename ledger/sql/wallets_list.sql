-- Wallets with their budgets, whose amount is what was paid in less what was paid out.
SELECT w.wallet_id, w.name, w.alert_below_nanos, w.created_at,
       b.budget_id, b.document, b.counts_from, b.version
  FROM wallets AS w
  JOIN budgets AS b ON b.budget_id = 'wallet-' || w.wallet_id
 WHERE %(name)s::text IS NULL OR w.name = %(name)s
 ORDER BY w.name
 LIMIT %(limit)s
