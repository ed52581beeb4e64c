SELECT name, team, owner, purpose, status, price_nanos, registered_at
  FROM agents
 WHERE %(status)s::text IS NULL OR status = %(status)s
 ORDER BY name
 LIMIT %(limit)s
