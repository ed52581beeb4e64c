SELECT key_id, owner, team, agent, workload, customer, labels, status, expires_at, max_spend_nanos, rpm, tpm,
       max_parallel, service_account, customer_header, created_at, version
  FROM keys
 WHERE (%(status)s::text IS NULL OR status = %(status)s)
   AND (to_jsonb(keys) - 'labels') @> %(columns)s
   AND labels @> %(labels)s
 ORDER BY created_at DESC, key_id
 LIMIT %(limit)s
