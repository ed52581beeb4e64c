-- Who pays for a run.
SELECT billed_team AS team, coalesce(sum(share_nanos), 0) AS cost_nanos
  FROM events
 CROSS JOIN LATERAL billed(billing, team, root_team, cost_nanos, root_share(billing, root_team, cost_nanos))
 WHERE run_id = %(run_id)s AND run_id <> ''
 GROUP BY billed_team
 ORDER BY cost_nanos DESC, team
