-- The newest runs, with all of their calls: those that were started since then, and those that a call was made in.
WITH touched AS (
    SELECT run_id, occurred_at AS at FROM events
     WHERE chain_trust <> '' AND run_id <> ''
       AND occurred_at >= coalesce(%(since)s::timestamptz, '-infinity')
       AND root_key_id = coalesce(%(root_key)s, root_key_id) AND root_team = coalesce(%(root_team)s, root_team)
       AND root_agent = coalesce(%(root_agent)s, root_agent)
       AND root_workload = coalesce(%(root_workload)s, root_workload)
    UNION ALL
    SELECT run_id, created_at FROM runs
     WHERE created_at >= coalesce(%(since)s::timestamptz, '-infinity')
       AND coalesce(root, '{}') @> jsonb_strip_nulls(jsonb_build_object(
               'key_id', %(root_key)s::text, 'team', %(root_team)s::text, 'agent', %(root_agent)s::text,
               'workload', %(root_workload)s::text))
), newest AS (
    SELECT run_id, max(at) AS at FROM touched GROUP BY run_id ORDER BY at DESC, run_id LIMIT %(limit)s
)
SELECT newest.run_id, coalesce(runs.name, '') AS name, runs.created_at, runs.expires_at, runs.ended_at,
       coalesce(runs.root ->> 'key_id', made.root_key_id) AS root_key_id,
       coalesce(runs.root ->> 'team', made.root_team) AS root_team,
       coalesce(runs.root ->> 'agent', made.root_agent) AS root_agent,
       coalesce(runs.root ->> 'workload', made.root_workload) AS root_workload,
       made.calls, made.refused_calls, made.keys, made.teams, made.trust, made.signal, made.input_tokens,
       made.output_tokens, made.cost_nanos, made.first_at, made.last_at
  FROM newest
  LEFT JOIN runs USING (run_id)
 CROSS JOIN LATERAL (
    SELECT count(*) AS calls, count(*) FILTER (WHERE outcome = 'refused') AS refused_calls,
           count(DISTINCT key_id) AS keys, count(DISTINCT team) AS teams,
           coalesce(string_agg(DISTINCT nullif(chain_trust, ''), ', '), '') AS trust,
           coalesce(string_agg(DISTINCT nullif(chain_signal, ''), ', '), '') AS signal,
           coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
           coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
           coalesce(sum(cost_nanos), 0)::bigint AS cost_nanos,
           min(occurred_at) AS first_at, max(occurred_at) AS last_at,
           (array_agg(root_key_id ORDER BY occurred_at, event_id))[1] AS root_key_id,
           (array_agg(root_team ORDER BY occurred_at, event_id))[1] AS root_team,
           (array_agg(root_agent ORDER BY occurred_at, event_id))[1] AS root_agent,
           (array_agg(root_workload ORDER BY occurred_at, event_id))[1] AS root_workload
      FROM events WHERE events.run_id = newest.run_id AND events.run_id <> ''
 ) AS made
 ORDER BY newest.at DESC, newest.run_id
