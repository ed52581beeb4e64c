SELECT DISTINCT jsonb_object_keys(labels) AS name FROM keys ORDER BY name LIMIT 200
