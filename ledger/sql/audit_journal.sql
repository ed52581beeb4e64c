-- Priced events and journal transactions that do not belong together, or do not sum to zero.
WITH transactions AS (
    SELECT transaction_id, occurred_at, sum(amount_nanos) AS balance,
           coalesce(sum(amount_nanos) FILTER (WHERE account LIKE ANY (ARRAY['expense:%%', 'overrun:%%'])), 0)
               AS expense,
           coalesce(sum(amount_nanos) FILTER (WHERE account LIKE 'overrun:%%'), 0) AS overrun
      FROM journal WHERE kind = 'usage' GROUP BY transaction_id, occurred_at
), priced AS (
    SELECT event_id, occurred_at, cost_nanos, hold_nanos FROM events WHERE cost_nanos IS NOT NULL
)
SELECT coalesce(p.event_id, t.transaction_id) AS event_id, p.cost_nanos, t.expense::text, t.balance::text
  FROM priced AS p
  FULL JOIN transactions AS t ON t.transaction_id = p.event_id AND t.occurred_at = p.occurred_at
 WHERE p.event_id IS NULL OR t.transaction_id IS NULL OR t.balance <> 0 OR t.expense <> p.cost_nanos
    OR t.overrun <> 0 AND (p.hold_nanos = 0 OR t.overrun <> p.cost_nanos - p.hold_nanos)
 ORDER BY 1
 LIMIT %(most)s
