-- Amounts per set of labels in one window, of the calls of some runs.
SELECT run_id, key_id, owner, principal, team, agent, workload, customer, provider, labels,
       root_key_id, root_team, root_agent, root_workload, byok,
       sum(coalesce(cost_nanos, 0))::text AS cost_nanos,
       sum(input_tokens::numeric + output_tokens)::text AS tokens,
       count(*) FILTER (WHERE outcome <> 'refused') AS calls
  FROM unnest(%(producers)s::text[], %(seqs)s::bigint[]) AS known (producer, seq)
 RIGHT JOIN events USING (producer)
 WHERE run_id = ANY(%(runs)s) AND run_id <> ''
   AND occurred_at >= %(start)s::timestamptz AND occurred_at < %(end)s::timestamptz
   AND events.seq <= coalesce(known.seq, events.seq)
 GROUP BY run_id, key_id, owner, principal, team, agent, workload, customer, provider, labels,
          root_key_id, root_team, root_agent, root_workload, byok
