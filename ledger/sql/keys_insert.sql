INSERT INTO keys (key_id, sha256, owner, team, agent, workload, customer, labels, expires_at, max_spend_nanos, rpm,
                  tpm, max_parallel, service_account, customer_header)
VALUES (%(key_id)s, %(sha256)s, %(owner)s, %(team)s, %(agent)s, %(workload)s, %(customer)s, %(labels)s,
        %(expires_at)s, %(max_spend_nanos)s, %(rpm)s, %(tpm)s, %(max_parallel)s, %(service_account)s,
        %(customer_header)s)
RETURNING key_id, owner, team, agent, workload, customer, labels, status, expires_at, max_spend_nanos, rpm, tpm,
          max_parallel, service_account, customer_header, created_at, version
