-- Spending per group, and its total, from the events: the rollups do not know every dimension.
-- ledger/spend.py fills the braces; `shares` is how a call counts, and for whom where that is asked.
SELECT {names}, grouping(g0) = 1 AS is_total,
       sum(counted) AS calls,
       sum(counted) FILTER (WHERE outcome = 'refused') AS refused_calls,
       sum(counted) FILTER (WHERE outcome NOT IN ('ok', 'refused')) AS failed_calls,
       sum(counted) FILTER (WHERE share_nanos IS NULL AND outcome <> 'refused') AS unpriced_calls,
       sum(counted) FILTER (WHERE usage_source = 'estimated') AS estimated_calls,
       sum(counted * input_tokens) AS input_tokens, sum(counted * cache_read_tokens) AS cache_read_tokens,
       sum(counted * output_tokens) AS output_tokens, sum(counted * reasoning_tokens) AS reasoning_tokens,
       sum(share_nanos) AS cost_nanos
  FROM (
    SELECT {groups}, counted, share_nanos, outcome, usage_source, input_tokens, cache_read_tokens, output_tokens,
           reasoning_tokens
      FROM events
     CROSS JOIN LATERAL {shares}(billing, team, root_team, cost_nanos, root_share(billing, root_team, cost_nanos))
     WHERE occurred_at >= coalesce(%(since)s::timestamptz, '-infinity')
       AND occurred_at < coalesce(%(until)s::timestamptz, 'infinity')
       AND {where}
  ) AS chosen
 GROUP BY GROUPING SETS (({names}), ())
 ORDER BY is_total DESC, {order}
 LIMIT %(limit)s
