-- Keys in quarantine that can still be labelled, the biggest spenders first; NULL limit: all.
SELECT q.key_id, q.owner, q.team, q.agent, q.workload, q.customer, q.labels, q.name, q.note, q.status, q.grace_until,
       coalesce(used.spent_nanos, 0)::bigint AS spent_nanos, coalesce(used.calls, 0)::bigint AS calls,
       coalesce(used.models, '{}') AS models,
       (SELECT max(occurred_at) FROM events AS e WHERE e.key_id = q.key_id) AS last_used_at
  FROM quarantined_keys AS q
  LEFT JOIN (
    SELECT key_id, sum(spent_nanos) AS spent_nanos, sum(calls) AS calls,
           (array_agg(model ORDER BY spent_nanos DESC, calls DESC) FILTER (WHERE model <> ''))[:3] AS models
      FROM (SELECT key_id, model, sum(cost_nanos) AS spent_nanos, sum(calls) AS calls
              FROM rollups WHERE key_id IN (SELECT key_id FROM quarantined_keys)
             GROUP BY key_id, model) AS by_model
     GROUP BY key_id
  ) AS used USING (key_id)
 WHERE q.status <> 'revoked' AND q.replaced_by IS NULL
 ORDER BY spent_nanos DESC, calls DESC, q.created_at, q.key_id
 LIMIT %(limit)s
