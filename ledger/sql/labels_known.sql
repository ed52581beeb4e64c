-- The values of a label that are allowed or in use, the most used first.
SELECT value
  FROM (SELECT CASE %(label)s::text WHEN 'owner' THEN owner WHEN 'team' THEN team WHEN 'agent' THEN agent
                    WHEN 'workload' THEN workload WHEN 'customer' THEN customer ELSE labels ->> %(label)s::text END AS value
          FROM keys WHERE status <> 'revoked'
        UNION ALL
        SELECT value FROM label_values WHERE label = %(label)s AND allowed) AS every
 WHERE value <> ''
   AND coalesce((SELECT allowed FROM label_values AS v WHERE v.label = %(label)s AND v.value = every.value),
                NOT EXISTS (SELECT FROM label_rules WHERE label = %(label)s AND closed))
 GROUP BY value
 ORDER BY count(*) DESC, value
 LIMIT %(limit)s
