-- Who started a run, as its first booked call says.
SELECT root_key_id AS key_id, coalesce(k.owner, '') AS owner, root_team AS team, root_agent AS agent,
       root_workload AS workload
  FROM events LEFT JOIN keys AS k ON k.key_id = root_key_id
 WHERE run_id = %(run_id)s AND run_id <> '' AND root_key_id <> ''
 ORDER BY occurred_at, event_id
 LIMIT 1
