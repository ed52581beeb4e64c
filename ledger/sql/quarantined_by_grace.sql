-- Keys in quarantine by the day (in UTC) on which the last of their grace ends.
SELECT date_trunc('day', grace_until, 'UTC') AS day, max(grace_until) AS grace_until, count(*) AS keys,
       count(*) FILTER (WHERE replaced_by IS NOT NULL) AS replaced,
       count(*) FILTER (WHERE grace_until > %(now)s AND status = 'active') AS passing
  FROM quarantined_keys
 WHERE status <> 'revoked'
 GROUP BY 1
 ORDER BY 1
