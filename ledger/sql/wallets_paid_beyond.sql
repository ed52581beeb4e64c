-- What wallets paid for calls of a window that lie beyond a given seq of their producer.
SELECT j.account, sum(j.amount_nanos)::text AS amount_nanos
  FROM unnest(%(producers)s::text[], %(seqs)s::bigint[]) AS known (producer, seq)
  JOIN events AS e ON e.producer = known.producer AND e.seq > known.seq
  JOIN journal AS j ON j.transaction_id = e.event_id AND j.occurred_at = e.occurred_at
 WHERE j.kind = 'usage' AND j.account = ANY(%(accounts)s)
   AND e.occurred_at >= %(start)s::timestamptz AND e.occurred_at < %(end)s::timestamptz
 GROUP BY j.account
