-- In the order of ledger.event.FIELDS.
COPY staged (
    event_id, producer, seq, occurred_at, key_id, owner, principal, team, agent, workload, customer,
    labels, run_id, root_key_id, root_team, root_agent, root_workload, parent_key_id, depth,
    chain_trust, provider, model_requested, model, operation, streamed, input_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
    reasoning_tokens, audio_input_tokens, audio_output_tokens, cost_nanos, provider_cost_nanos,
    price_source, usage_source, hold_nanos, price_version, provider_response_id, http_status,
    outcome, refusal, latency_ms, first_byte_ms, attempts, route, policy_version, service_tier,
    byok, refused_by, shadow_refusal, billing, chain_signal, chain_fault, chain_path, tool_name,
    target_agent, image_input_tokens, image_output_tokens
) FROM STDIN
