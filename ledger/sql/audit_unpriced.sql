SELECT provider, coalesce(nullif(model, ''), model_requested) AS model, count(*) AS calls
  FROM events
 WHERE cost_nanos IS NULL AND outcome <> 'refused'
 GROUP BY 1, 2
 ORDER BY 3 DESC, 1, 2
 LIMIT %(most)s
