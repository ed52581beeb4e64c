-- Every tool that was called or has a price, with the price that holds for it: its own, or its server's.
WITH called AS (
    SELECT provider AS server, tool_name AS tool, count(*) AS calls,
           count(*) FILTER (WHERE outcome = 'refused') AS refused_calls,
           count(*) FILTER (WHERE outcome NOT IN ('ok', 'refused')) AS failed_calls,
           coalesce(sum(cost_nanos), 0)::bigint AS cost_nanos,
           coalesce(avg(latency_ms) FILTER (WHERE outcome <> 'refused'), 0)::bigint AS mean_ms,
           max(occurred_at) AS last_called_at
      FROM events
     WHERE tool_name <> '' AND operation = 'tool_call'
       AND occurred_at >= coalesce(%(since)s::timestamptz, '-infinity')
     GROUP BY 1, 2
), priced AS (
    SELECT server, tool, price_nanos FROM tool_prices WHERE price_nanos IS NOT NULL
)
SELECT server, tool, coalesce(own.price_nanos, (SELECT price_nanos FROM priced AS every
                                                 WHERE every.server = named.server AND every.tool = '*')) AS price_nanos,
       coalesce(calls, 0) AS calls, coalesce(refused_calls, 0) AS refused_calls,
       coalesce(failed_calls, 0) AS failed_calls, coalesce(cost_nanos, 0) AS cost_nanos, mean_ms, last_called_at
  FROM (SELECT server, tool FROM called UNION SELECT server, tool FROM priced) AS named
  LEFT JOIN called USING (server, tool)
  LEFT JOIN priced AS own USING (server, tool)
 ORDER BY server, tool
 LIMIT %(limit)s
