SELECT key_id, owner, team, agent, workload, customer, labels, status, expires_at, max_spend_nanos, rpm, tpm,
       max_parallel, service_account, customer_header, created_at, version, NULL::timestamptz AS grace_until
  FROM keys
 WHERE key_id = %(key_id)s
UNION ALL
SELECT key_id, owner, team, agent, workload, customer, labels, status, NULL, NULL, NULL, NULL,
       NULL, false, false, created_at, version, grace_until
  FROM quarantined_keys
 WHERE key_id = %(key_id)s
