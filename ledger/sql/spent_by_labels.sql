-- Amounts per set of labels in one window: whole hours from the rollups, what sticks out of them from the events.
SELECT key_id, owner, principal, team, agent, workload, customer, provider, labels,
       root_key_id, root_team, root_agent, root_workload, byok,
       sum(cost_nanos)::text AS cost_nanos, sum(tokens)::text AS tokens, sum(calls)::text AS calls
  FROM (
    SELECT key_id, owner, principal, team, agent, workload, customer, provider, labels,
           root_key_id, root_team, root_agent, root_workload, byok,
           cost_nanos, input_tokens::numeric + output_tokens AS tokens, calls - refused_calls AS calls
      FROM rollups
     WHERE hour >= %(head_end)s::timestamptz AND hour < %(tail_start)s::timestamptz
    UNION ALL
    SELECT key_id, owner, principal, team, agent, workload, customer, provider, labels,
           root_key_id, root_team, root_agent, root_workload, byok,
           coalesce(cost_nanos, 0), input_tokens::numeric + output_tokens, (outcome <> 'refused')::int
      FROM events
     WHERE occurred_at >= %(start)s::timestamptz AND occurred_at < %(head_end)s::timestamptz
        OR occurred_at >= %(tail_start)s::timestamptz AND occurred_at < %(end)s::timestamptz
) AS parts
GROUP BY key_id, owner, principal, team, agent, workload, customer, provider, labels,
         root_key_id, root_team, root_agent, root_workload, byok
