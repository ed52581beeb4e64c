-- What wallets paid for the calls of a window.
SELECT account, sum(amount_nanos)::text AS amount_nanos
  FROM journal
 WHERE kind = 'usage' AND account = ANY(%(accounts)s)
   AND occurred_at >= %(start)s::timestamptz AND occurred_at < %(end)s::timestamptz
 GROUP BY account
