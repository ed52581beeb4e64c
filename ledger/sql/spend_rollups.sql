-- Spending per group, and its total: whole hours from the rollups, what sticks out of them from the events.
-- ledger/spend.py fills the braces; groups and filters name columns that both tables have.
SELECT {names}, grouping(g0) = 1 AS is_total,
       sum(calls) AS calls, sum(refused_calls) AS refused_calls, sum(failed_calls) AS failed_calls,
       sum(unpriced_calls) AS unpriced_calls, sum(estimated_calls) AS estimated_calls,
       sum(input_tokens) AS input_tokens, sum(cache_read_tokens) AS cache_read_tokens,
       sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nanos) AS cost_nanos
  FROM (
    SELECT {groups}, calls, refused_calls, failed_calls, unpriced_calls, estimated_calls, input_tokens,
           cache_read_tokens, output_tokens, reasoning_tokens, cost_nanos
      FROM (SELECT *, hour AS occurred_at FROM rollups) AS hours
     WHERE hour >= coalesce(%(first_hour)s::timestamptz, '-infinity')
       AND hour < coalesce(%(last_hour)s::timestamptz, 'infinity')
       AND {where}
    UNION ALL
    SELECT {groups}, 1, (outcome = 'refused')::int, (outcome NOT IN ('ok', 'refused'))::int,
           (cost_nanos IS NULL AND outcome <> 'refused')::int, (usage_source = 'estimated')::int, input_tokens,
           cache_read_tokens, output_tokens, reasoning_tokens, cost_nanos
      FROM events
     WHERE (occurred_at >= %(since)s::timestamptz
            AND occurred_at < least(%(first_hour)s::timestamptz, %(until)s::timestamptz)
         OR occurred_at >= greatest(%(last_hour)s::timestamptz, %(first_hour)s::timestamptz)
            AND occurred_at < %(until)s::timestamptz)
       AND {where}
  ) AS parts
 GROUP BY GROUPING SETS (({names}), ())
 ORDER BY is_total DESC, {order}
 LIMIT %(limit)s
