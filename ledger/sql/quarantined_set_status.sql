UPDATE quarantined_keys SET status = %(status)s
 WHERE key_id = %(key_id)s
RETURNING key_id, owner, team, agent, workload, customer, labels, status, NULL::timestamptz AS expires_at,
          NULL::bigint AS max_spend_nanos, NULL::bigint AS rpm, NULL::bigint AS tpm, NULL::bigint AS max_parallel,
          false AS service_account, false AS customer_header, created_at, version, grace_until, name, note, replaced_by
