UPDATE keys SET max_spend_nanos = %(max_spend_nanos)s, rpm = %(rpm)s, tpm = %(tpm)s, max_parallel = %(max_parallel)s
 WHERE key_id = %(key_id)s
RETURNING key_id, owner, team, agent, workload, customer, labels, status, expires_at, max_spend_nanos, rpm, tpm,
          max_parallel, service_account, customer_header, created_at, version
