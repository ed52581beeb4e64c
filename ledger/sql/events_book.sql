-- Book the staged events that are not booked yet, with their rollups; returns which those are.
WITH booked AS (
    INSERT INTO events SELECT * FROM staged ON CONFLICT DO NOTHING
    RETURNING *
), summed AS (
    INSERT INTO rollups AS r (
        hour, dimensions,
        key_id, owner, principal, team, agent, workload, customer, labels, root_key_id, root_team,
        root_agent, root_workload, chain_trust, provider, model, operation, byok,
        billing, calls,
        refused_calls, failed_calls, unpriced_calls, estimated_calls, input_tokens, cache_read_tokens,
        cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
        audio_input_tokens, audio_output_tokens, cost_nanos, provider_cost_nanos, latency_ms,
        root_cost_nanos
    )
    SELECT date_trunc('hour', occurred_at, 'UTC'),
           md5(jsonb_build_array(
               key_id, owner, principal, team, agent, workload, customer, labels, root_key_id,
               root_team, root_agent, root_workload, chain_trust, provider, model, operation
           )::text)::uuid,
           key_id, owner, principal, team, agent, workload, customer, labels, root_key_id,
           root_team, root_agent, root_workload, chain_trust, provider, model, operation, byok,
           billing, count(*),
           count(*) FILTER (WHERE outcome = 'refused'),
           count(*) FILTER (WHERE outcome NOT IN ('ok', 'refused')),
           count(*) FILTER (WHERE cost_nanos IS NULL AND outcome <> 'refused'),
           count(*) FILTER (WHERE usage_source = 'estimated'),
           sum(input_tokens),
           sum(cache_read_tokens),
           sum(cache_write_5m_tokens),
           sum(cache_write_1h_tokens),
           sum(output_tokens),
           sum(reasoning_tokens),
           sum(audio_input_tokens),
           sum(audio_output_tokens),
           coalesce(sum(cost_nanos), 0),
           coalesce(sum(provider_cost_nanos), 0),
           sum(latency_ms),
           coalesce(sum(root_share(billing, root_team, cost_nanos)), 0)
      FROM booked
     GROUP BY date_trunc('hour', occurred_at, 'UTC'),
              key_id, owner, principal, team, agent, workload, customer, labels, root_key_id,
              root_team, root_agent, root_workload, chain_trust, provider, model, operation, byok,
              billing
     ORDER BY 1, 2, byok, billing
    ON CONFLICT (hour, dimensions, byok, billing) DO UPDATE SET
        calls = r.calls + excluded.calls,
        refused_calls = r.refused_calls + excluded.refused_calls,
        failed_calls = r.failed_calls + excluded.failed_calls,
        unpriced_calls = r.unpriced_calls + excluded.unpriced_calls,
        estimated_calls = r.estimated_calls + excluded.estimated_calls,
        input_tokens = r.input_tokens + excluded.input_tokens,
        cache_read_tokens = r.cache_read_tokens + excluded.cache_read_tokens,
        cache_write_5m_tokens = r.cache_write_5m_tokens + excluded.cache_write_5m_tokens,
        cache_write_1h_tokens = r.cache_write_1h_tokens + excluded.cache_write_1h_tokens,
        output_tokens = r.output_tokens + excluded.output_tokens,
        reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
        audio_input_tokens = r.audio_input_tokens + excluded.audio_input_tokens,
        audio_output_tokens = r.audio_output_tokens + excluded.audio_output_tokens,
        cost_nanos = r.cost_nanos + excluded.cost_nanos,
        provider_cost_nanos = r.provider_cost_nanos + excluded.provider_cost_nanos,
        latency_ms = r.latency_ms + excluded.latency_ms,
        root_cost_nanos = r.root_cost_nanos + excluded.root_cost_nanos
)
SELECT event_id, occurred_at FROM booked
