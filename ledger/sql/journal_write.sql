-- One transaction that is no usage.
INSERT INTO journal (transaction_id, occurred_at, account, amount_nanos, kind)
SELECT %(transaction_id)s, %(occurred_at)s, account, amount_nanos, %(kind)s
  FROM unnest(%(accounts)s::text[], %(amounts)s::bigint[]) AS entries (account, amount_nanos)
