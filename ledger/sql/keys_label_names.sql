SELECT DISTINCT jsonb_object_keys(labels) AS name
  FROM (SELECT labels FROM keys UNION ALL SELECT labels FROM quarantined_keys) AS every
 ORDER BY name LIMIT 200
