-- Rollups that are not the sums of their events; each side as one JSON object.
WITH expected AS (
    SELECT date_trunc('hour', occurred_at, 'UTC') AS hour,
           key_id, owner, principal, team, agent, workload, customer, labels, root_key_id,
           root_team, root_agent, root_workload, chain_trust, provider, model, operation, byok, billing,
           count(*) AS calls,
           count(*) FILTER (WHERE outcome = 'refused') AS refused_calls,
           count(*) FILTER (WHERE outcome NOT IN ('ok', 'refused')) AS failed_calls,
           count(*) FILTER (WHERE cost_nanos IS NULL AND outcome <> 'refused') AS unpriced_calls,
           count(*) FILTER (WHERE usage_source = 'estimated') AS estimated_calls,
           sum(input_tokens) AS input_tokens,
           sum(cache_read_tokens) AS cache_read_tokens,
           sum(cache_write_5m_tokens) AS cache_write_5m_tokens,
           sum(cache_write_1h_tokens) AS cache_write_1h_tokens,
           sum(output_tokens) AS output_tokens,
           sum(reasoning_tokens) AS reasoning_tokens,
           sum(audio_input_tokens) AS audio_input_tokens,
           sum(audio_output_tokens) AS audio_output_tokens,
           coalesce(sum(cost_nanos), 0) AS cost_nanos,
           coalesce(sum(provider_cost_nanos), 0) AS provider_cost_nanos,
           sum(latency_ms) AS latency_ms,
           coalesce(sum(root_share(billing, root_team, cost_nanos)), 0) AS root_cost_nanos
      FROM events
     GROUP BY date_trunc('hour', occurred_at, 'UTC'),
              key_id, owner, principal, team, agent, workload, customer, labels, root_key_id,
              root_team, root_agent, root_workload, chain_trust, provider, model, operation, byok, billing
), kept AS (
    SELECT hour,
           key_id, owner, principal, team, agent, workload, customer, labels, root_key_id,
           root_team, root_agent, root_workload, chain_trust, provider, model, operation, byok, billing,
           calls, refused_calls, failed_calls, unpriced_calls, estimated_calls, input_tokens,
           cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
           reasoning_tokens, audio_input_tokens, audio_output_tokens, cost_nanos,
           provider_cost_nanos, latency_ms, root_cost_nanos
      FROM rollups
), different AS (
    (SELECT 'expected' AS side, e.* FROM (SELECT * FROM expected EXCEPT SELECT * FROM kept) AS e)
    UNION ALL
    (SELECT 'found', k.* FROM (SELECT * FROM kept EXCEPT SELECT * FROM expected) AS k)
)
SELECT side, hour, to_jsonb(different) - 'side' - 'hour' AS sums FROM different
 ORDER BY hour, key_id, model, side
 LIMIT %(most)s
