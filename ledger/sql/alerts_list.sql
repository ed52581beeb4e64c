-- The newest alerts, and how far each has come on its way to the endpoints.
SELECT a.*, d.deliveries, d.delivered, d.failed, d.pending
  FROM alerts AS a
 CROSS JOIN LATERAL (
    SELECT count(*) AS deliveries,
           count(*) FILTER (WHERE state = 'delivered') AS delivered,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           count(*) FILTER (WHERE state = 'pending') AS pending
      FROM deliveries WHERE deliveries.alert_id = a.alert_id) AS d
 WHERE %(name)s::text IS NULL OR a.name = %(name)s
 ORDER BY a.at DESC, a.alert_id DESC
 LIMIT %(limit)s
