INSERT INTO quarantined_keys (key_id, sha256, owner, team, agent, workload, customer, labels, name, note, grace_until)
SELECT key_id, sha256, owner, team, agent, workload, customer, labels, name, note, %(grace_until)s
  FROM jsonb_to_recordset(%(rows)s) AS row (
           key_id text, sha256 text, owner text, team text, agent text, workload text, customer text, labels jsonb,
           name text, note text)
