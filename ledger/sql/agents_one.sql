SELECT name, team, owner, purpose, status, price_nanos, registered_at
  FROM agents
 WHERE name = %(name)s
   FOR UPDATE
