-- What was billed above the holds per set of labels, of calls in one window.
SELECT key_id, owner, principal, team, agent, workload, customer, provider, labels,
       root_key_id, root_team, root_agent, root_workload, byok, run_id,
       sum(cost_nanos - hold_nanos)::text AS cost_nanos, 0 AS tokens, 0 AS calls
  FROM events
 WHERE hold_nanos > 0 AND cost_nanos > hold_nanos
   AND occurred_at >= %(start)s::timestamptz AND occurred_at < %(end)s::timestamptz
 GROUP BY key_id, owner, principal, team, agent, workload, customer, provider, labels,
          root_key_id, root_team, root_agent, root_workload, byok, run_id
