-- A run that a sidecar started has no row until it is ended here: what its first call says of its root is its root.
INSERT INTO runs (run_id, root, expires_at, ended_at, ended_by, ended_why)
VALUES (%(run_id)s, %(root)s, %(expires_at)s, now(), %(who)s, %(why)s)
ON CONFLICT (run_id) DO UPDATE
   SET ended_at = excluded.ended_at, ended_by = excluded.ended_by, ended_why = excluded.ended_why
RETURNING run_id, name, root, audience, budget_id, expires_at, created_at, started_by, why, ended_at, ended_by, ended_why
