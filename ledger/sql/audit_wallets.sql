-- Wallets whose limit, payments and journal do not say the same of what was paid in.
SELECT w.name, b.document ->> 'amount' AS enforced, coalesce(paid.nanos, 0)::text AS paid,
       coalesce(-booked.nanos, 0)::text AS booked
  FROM wallets AS w
  LEFT JOIN budgets AS b ON b.budget_id = 'wallet-' || w.wallet_id AND NOT b.removed
  LEFT JOIN (
      SELECT wallet_id, sum(amount_nanos) AS nanos FROM wallet_transactions GROUP BY wallet_id
  ) AS paid USING (wallet_id)
  LEFT JOIN (
      SELECT account, sum(amount_nanos) AS nanos FROM journal WHERE kind <> 'usage' GROUP BY account
  ) AS booked ON booked.account = 'credit:' || w.name
 WHERE (b.document ->> 'amount')::numeric IS DISTINCT FROM coalesce(paid.nanos, 0)
    OR coalesce(paid.nanos, 0) <> coalesce(-booked.nanos, 0)
 ORDER BY w.name
 LIMIT %(most)s
