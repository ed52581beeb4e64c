UPDATE agents
   SET team = %(team)s, owner = %(owner)s, purpose = %(purpose)s, status = %(status)s, price_nanos = %(price_nanos)s
 WHERE name = %(name)s
RETURNING name, team, owner, purpose, status, price_nanos, registered_at
