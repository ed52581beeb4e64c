-- What moved a wallet's credit, the newest first: payments one by one, usage by day (UTC), with the balance after each.
WITH moves AS (
    SELECT at, kind, amount_nanos, against, reference, who, why, 0 AS calls
      FROM wallet_transactions
     WHERE wallet_id = %(wallet_id)s
    UNION ALL
    SELECT max(occurred_at), kind, -sum(amount_nanos), 'revenue:usage', '', '', '', count(*)
      FROM journal
     WHERE account = %(account)s AND kind = 'usage'
     GROUP BY date_trunc('day', occurred_at, 'UTC'), kind
)
SELECT at, kind, amount_nanos::text AS amount_nanos, against, reference, who, why, calls,
       (sum(amount_nanos) OVER (ORDER BY at, kind, reference ROWS UNBOUNDED PRECEDING))::text AS balance_nanos
  FROM moves
 ORDER BY at DESC, kind DESC, reference DESC
 LIMIT %(limit)s
