-- The calls of a run by who made them and where they stand in it, the dearest first, and their total.
SELECT chain_path, key_id, owner, team, agent, workload, chain_trust, chain_signal, chain_fault, tool_name, target_agent,
       grouping(key_id) = 1 AS is_total, count(*) AS calls,
       count(*) FILTER (WHERE outcome = 'refused') AS refused_calls,
       count(*) FILTER (WHERE outcome NOT IN ('ok', 'refused')) AS failed_calls,
       count(*) FILTER (WHERE cost_nanos IS NULL AND outcome <> 'refused') AS unpriced_calls,
       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(cost_nanos) AS cost_nanos,
       min(occurred_at) AS first_at, max(occurred_at) AS last_at
  FROM events
 WHERE run_id = %(run_id)s AND run_id <> ''
 GROUP BY GROUPING SETS ((chain_path, key_id, owner, team, agent, workload, chain_trust, chain_signal, chain_fault,
                          tool_name, target_agent), ())
 ORDER BY is_total DESC, sum(cost_nanos) DESC NULLS LAST, calls DESC, min(occurred_at), chain_path, key_id
 LIMIT %(most)s
