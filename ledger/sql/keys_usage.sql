SELECT coalesce(sum(calls), 0)::bigint AS calls, coalesce(sum(cost_nanos), 0)::bigint AS spent_nanos,
       (SELECT max(occurred_at) FROM events WHERE key_id = %(key_id)s) AS last_used_at
  FROM rollups
 WHERE key_id = %(key_id)s
