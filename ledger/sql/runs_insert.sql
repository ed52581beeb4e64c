INSERT INTO runs (run_id, name, root, audience, budget_id, expires_at, started_by, why)
VALUES (%(run_id)s, %(name)s, %(root)s, %(audience)s, %(budget_id)s, %(expires_at)s, %(who)s, %(why)s)
RETURNING run_id, name, root, audience, budget_id, expires_at, created_at, started_by, why, ended_at, ended_by, ended_why
