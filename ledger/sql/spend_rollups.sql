-- Spending per group, and its total: whole hours from the rollups, what sticks out of them from the events.
-- ledger/spend.py fills the braces; groups and filters name columns that both tables have, and `shares` is how a call
-- counts, and for whom where that is asked.
SELECT {names}, grouping(g0) = 1 AS is_total,
       sum(counted * calls) AS calls, sum(counted * refused_calls) AS refused_calls,
       sum(counted * failed_calls) AS failed_calls, sum(counted * unpriced_calls) AS unpriced_calls,
       sum(counted * estimated_calls) AS estimated_calls, sum(counted * input_tokens) AS input_tokens,
       sum(counted * cache_read_tokens) AS cache_read_tokens, sum(counted * output_tokens) AS output_tokens,
       sum(counted * reasoning_tokens) AS reasoning_tokens, sum(share_nanos) AS cost_nanos
  FROM (
    SELECT {groups}, counted, share_nanos, calls, refused_calls, failed_calls, unpriced_calls, estimated_calls,
           input_tokens, cache_read_tokens, output_tokens, reasoning_tokens
      FROM (SELECT *, hour AS occurred_at FROM rollups) AS hours
     CROSS JOIN LATERAL {shares}(billing, team, root_team, cost_nanos, root_cost_nanos)
     WHERE hour >= coalesce(%(first_hour)s::timestamptz, '-infinity')
       AND hour < coalesce(%(last_hour)s::timestamptz, 'infinity')
       AND {where}
    UNION ALL
    SELECT {groups}, counted, share_nanos, 1, (outcome = 'refused')::int, (outcome NOT IN ('ok', 'refused'))::int,
           (cost_nanos IS NULL AND outcome <> 'refused')::int, (usage_source = 'estimated')::int, input_tokens,
           cache_read_tokens, output_tokens, reasoning_tokens
      FROM events
     CROSS JOIN LATERAL {shares}(billing, team, root_team, cost_nanos, root_share(billing, root_team, cost_nanos))
     WHERE (occurred_at >= %(since)s::timestamptz
            AND occurred_at < least(%(first_hour)s::timestamptz, %(until)s::timestamptz)
         OR occurred_at >= greatest(%(last_hour)s::timestamptz, %(first_hour)s::timestamptz)
            AND occurred_at < %(until)s::timestamptz)
       AND {where}
  ) AS parts
 GROUP BY GROUPING SETS (({names}), ())
 ORDER BY is_total DESC, {order}
 LIMIT %(limit)s
