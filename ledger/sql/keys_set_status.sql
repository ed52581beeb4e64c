UPDATE keys SET status = %(status)s
 WHERE key_id = %(key_id)s
RETURNING key_id, owner, team, agent, workload, customer, labels, status, expires_at, max_spend_nanos, rpm, tpm,
          max_parallel, service_account, customer_header, created_at, version
