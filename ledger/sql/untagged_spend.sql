-- What calls of keys without all four labels cost, by the day or week (in UTC) in which they were made.
SELECT date_trunc(%(per)s, hour, 'UTC') AS starts, sum(cost_nanos)::bigint AS cost_nanos,
       sum(calls - refused_calls)::bigint AS calls, sum(refused_calls)::bigint AS refused_calls,
       sum(unpriced_calls)::bigint AS unpriced_calls, count(DISTINCT key_id) AS keys
  FROM rollups
 WHERE hour >= %(since)s
   AND key_id <> '' AND (owner = '' OR team = '' OR agent = '' OR workload = '')
 GROUP BY 1
 ORDER BY 1
