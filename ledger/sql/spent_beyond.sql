-- Events of a window that lie beyond a given seq of their producer.
SELECT e.key_id, e.owner, e.principal, e.team, e.agent, e.workload, e.customer, e.provider, e.labels,
       e.root_key_id, e.root_team, e.root_agent, e.root_workload, e.byok,
       sum(coalesce(e.cost_nanos, 0))::text AS cost_nanos,
       sum(e.input_tokens::numeric + e.output_tokens)::text AS tokens,
       count(*) FILTER (WHERE e.outcome <> 'refused') AS calls
  FROM unnest(%(producers)s::text[], %(seqs)s::bigint[]) AS known (producer, seq)
  JOIN events AS e ON e.producer = known.producer AND e.seq > known.seq
 WHERE e.occurred_at >= %(start)s::timestamptz AND e.occurred_at < %(end)s::timestamptz
 GROUP BY e.key_id, e.owner, e.principal, e.team, e.agent, e.workload, e.customer, e.provider, e.labels,
          e.root_key_id, e.root_team, e.root_agent, e.root_workload, e.byok
