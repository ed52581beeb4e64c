-- What can be replaced: locked, the oldest first.
SELECT key_id, sha256, owner, team, agent, workload, customer, labels, name, grace_until
  FROM quarantined_keys
 WHERE status = 'active' AND replaced_by IS NULL AND key_id > %(after)s
 ORDER BY key_id
 LIMIT %(limit)s
   FOR UPDATE
