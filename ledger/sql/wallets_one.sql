-- The wallet of that name; whoever else pays in or out waits for this transaction.
SELECT w.wallet_id, w.name, w.alert_below_nanos, w.created_at,
       b.budget_id, b.document, b.counts_from, b.version
  FROM wallets AS w
  JOIN budgets AS b ON b.budget_id = 'wallet-' || w.wallet_id
 WHERE w.name = %(name)s
   FOR UPDATE OF w, b
