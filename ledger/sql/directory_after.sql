-- What changed after a version, in order. Nothing from the first budget on that the ledger has yet to count:
-- sidecars must not enforce a budget before its counter holds what was already spent.
SELECT * FROM (
    SELECT 'key:' || key_id AS name, version, jsonb_build_object(
               'key_id', key_id, 'sha256', sha256, 'owner', owner, 'team', team, 'agent', agent,
               'workload', workload, 'customer', customer, 'labels', labels, 'status', status,
               'expires_at_us', (extract(epoch FROM expires_at) * 1000000)::bigint,
               'max_spend_nanos', max_spend_nanos, 'rpm', rpm, 'tpm', tpm, 'max_parallel', max_parallel,
               'service_account', service_account, 'customer_header', customer_header, 'version', version) AS document
      FROM (SELECT * FROM keys WHERE version > %(version)s ORDER BY version LIMIT %(most)s) AS labelled
    UNION ALL
    SELECT 'key:' || key_id, version, jsonb_build_object(
               'key_id', key_id, 'sha256', sha256, 'owner', owner, 'team', team, 'agent', agent,
               'workload', workload, 'customer', customer, 'labels', labels, 'status', status,
               'grace_until_us', (extract(epoch FROM grace_until) * 1000000)::bigint, 'version', version)
      FROM (SELECT * FROM quarantined_keys WHERE version > %(version)s ORDER BY version LIMIT %(most)s) AS quarantined
    UNION ALL
    SELECT 'budget:' || budget_id, version, document || jsonb_build_object(
               'budget_id', budget_id, 'name', name, 'counts_from', counts_from, 'removed', removed,
               'version', version)
      FROM budgets WHERE version > %(version)s
    UNION ALL
    -- A directory that is filled anew has never heard of runs that are long over.
    SELECT 'run:' || run_id, version, jsonb_build_object(
               'run_id', run_id, 'root', root, 'audience', audience,
               'expires_at_us', (extract(epoch FROM expires_at) * 1000000)::bigint,
               'ended', ended_at IS NOT NULL, 'removed', removed, 'version', version)
      FROM runs WHERE version > %(version)s AND NOT (removed AND %(anew)s)
    UNION ALL
    SELECT 'chain_key:' || kid, version, jsonb_build_object(
               'kid', kid, 'secret', rtrim(translate(encode(secret, 'base64'), E'+/\n', '-_'), '='),
               'from_us', from_us, 'until_us', coalesce(until_us, %(for_ever)s), 'removed', removed,
               'version', version)
      FROM chain_keys WHERE version > %(version)s
    UNION ALL
    SELECT 'setting:' || name, version, document || jsonb_build_object('version', version)
      FROM published_settings WHERE version > %(version)s
    UNION ALL
    SELECT 'agent:' || name, version, jsonb_build_object(
               'name', name, 'team', team, 'owner', owner, 'purpose', purpose, 'status', status,
               'price_nanos', price_nanos, 'version', version)
      FROM agents WHERE version > %(version)s
    UNION ALL
    SELECT 'tool:' || server || '/' || tool, version, jsonb_build_object(
               'price_nanos', price_nanos, 'removed', price_nanos IS NULL, 'version', version)
      FROM tool_prices WHERE version > %(version)s
) AS changes
WHERE version < coalesce(
    (SELECT min(version) FROM budgets WHERE counted_at IS NULL AND NOT removed), 9223372036854775807)
ORDER BY version
LIMIT %(most)s
