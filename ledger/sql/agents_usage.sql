-- What an agent's keys called and spent, and how often it was called itself.
SELECT (SELECT count(*) FROM keys WHERE agent = %(name)s AND status <> 'revoked') AS keys,
       coalesce(sum(calls), 0)::bigint AS calls, coalesce(sum(cost_nanos), 0)::bigint AS spent_nanos,
       (SELECT count(*) FROM events WHERE target_agent = %(name)s AND target_agent <> '' AND outcome <> 'refused')
           AS times_called
  FROM rollups
 WHERE agent = %(name)s
