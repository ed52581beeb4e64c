SELECT run_id, name, root, audience, budget_id, expires_at, created_at, started_by, why, ended_at, ended_by, ended_why
  FROM runs
 WHERE run_id = %(run_id)s
