SELECT key_id, owner, team, agent, workload, customer, labels, status, NULL::timestamptz AS expires_at,
       NULL::bigint AS max_spend_nanos, NULL::bigint AS rpm, NULL::bigint AS tpm, NULL::bigint AS max_parallel,
       false AS service_account, false AS customer_header, created_at, version, grace_until, name, note, replaced_by
  FROM quarantined_keys
 WHERE (%(status)s::text IS NULL OR status = %(status)s)
   AND (to_jsonb(quarantined_keys) - 'labels') @> %(columns)s
   AND labels @> %(labels)s
 ORDER BY created_at DESC, key_id
 LIMIT %(limit)s
