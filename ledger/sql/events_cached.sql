-- Calls that wrote or read a provider's cache, cache by cache in the order of time. A cache belongs to one account (the
-- gateway's, or that of a caller who brings its own credential) and one model. ledger/spend.py fills the braces.
SELECT provider, CASE WHEN byok THEN key_id ELSE '' END AS account, model, service_tier,
       event_id, occurred_at, latency_ms, run_id, team, agent, input_tokens, cache_read_tokens, cache_write_5m_tokens,
       cache_write_1h_tokens, output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,
       image_input_tokens, image_output_tokens, cost_nanos, {groups}, ({where}) AS chosen
  FROM events
 WHERE occurred_at >= coalesce(%(since)s::timestamptz, '-infinity')
   AND occurred_at < coalesce(%(until)s::timestamptz, 'infinity')
   AND (cache_read_tokens > 0 OR cache_write_5m_tokens > 0 OR cache_write_1h_tokens > 0)
 ORDER BY provider, account, model, occurred_at, event_id
