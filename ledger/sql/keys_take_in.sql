-- A key that leaves quarantine: what it was, with all of its labels.
INSERT INTO keys (key_id, sha256, owner, team, agent, workload, customer, labels, status, expires_at, created_at)
VALUES (%(key_id)s, %(sha256)s, %(owner)s, %(team)s, %(agent)s, %(workload)s, %(customer)s, %(labels)s, %(status)s,
        %(expires_at)s, %(created_at)s)
