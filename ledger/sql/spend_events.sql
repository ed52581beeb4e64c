-- Spending per group, and its total, from the events: the rollups do not know every dimension.
-- ledger/spend.py fills the braces.
SELECT {names}, grouping(g0) = 1 AS is_total,
       count(*) AS calls,
       count(*) FILTER (WHERE outcome = 'refused') AS refused_calls,
       count(*) FILTER (WHERE outcome NOT IN ('ok', 'refused')) AS failed_calls,
       count(*) FILTER (WHERE cost_nanos IS NULL AND outcome <> 'refused') AS unpriced_calls,
       count(*) FILTER (WHERE usage_source = 'estimated') AS estimated_calls,
       sum(input_tokens) AS input_tokens, sum(cache_read_tokens) AS cache_read_tokens,
       sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nanos) AS cost_nanos
  FROM (
    SELECT {groups}, outcome, usage_source, input_tokens, cache_read_tokens, output_tokens, reasoning_tokens, cost_nanos
      FROM events
     WHERE occurred_at >= coalesce(%(since)s::timestamptz, '-infinity')
       AND occurred_at < coalesce(%(until)s::timestamptz, 'infinity')
       AND {where}
  ) AS chosen
 GROUP BY GROUPING SETS (({names}), ())
 ORDER BY is_total DESC, {order}
 LIMIT %(limit)s
