-- Many keys at once, each with all of its labels.
INSERT INTO keys (key_id, sha256, owner, team, agent, workload, customer, labels)
SELECT key_id, sha256, owner, team, agent, workload, customer, labels
  FROM jsonb_to_recordset(%(rows)s) AS row (
           key_id text, sha256 text, owner text, team text, agent text, workload text, customer text, labels jsonb)
