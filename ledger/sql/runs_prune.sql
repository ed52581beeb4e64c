-- Runs that have been over for a while; no call can be of one of them any more.
UPDATE runs SET removed = true
 WHERE run_id IN (
     SELECT run_id FROM runs
      WHERE NOT removed AND expires_at < %(before)s
      ORDER BY expires_at
      LIMIT %(most)s
 )
RETURNING run_id, budget_id
