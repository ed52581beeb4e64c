-- Keys that may call and do not fit the rules for labels.
SELECT key_id, owner, team, agent, workload, fault
  FROM (SELECT keys.*, label_fault(labels || jsonb_build_object(
                   'owner', owner, 'team', team, 'agent', agent, 'workload', workload, 'customer', customer), true)
               AS fault
          FROM keys
         WHERE status <> 'revoked' AND (expires_at IS NULL OR expires_at > now())) AS checked
 WHERE fault IS NOT NULL
 ORDER BY created_at DESC, key_id
 LIMIT %(limit)s
