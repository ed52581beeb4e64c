SELECT key_id, owner, team, agent, workload FROM keys WHERE key_id = ANY(%(key_ids)s)
