INSERT INTO agents (name, team, owner, purpose, price_nanos)
VALUES (%(name)s, %(team)s, %(owner)s, %(purpose)s, %(price_nanos)s)
ON CONFLICT (name) DO NOTHING
RETURNING name, team, owner, purpose, status, price_nanos, registered_at
