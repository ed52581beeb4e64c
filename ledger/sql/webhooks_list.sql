SELECT w.endpoint_id, w.url, w.form, w.kinds, w.created_by, w.created_at, w.ended_at, w.end_reason,
       d.pending, d.failed, d.last_delivered_at
  FROM webhooks AS w
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'pending') AS pending,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           max(delivered_at) AS last_delivered_at
      FROM deliveries WHERE deliveries.endpoint_id = w.endpoint_id) AS d
 WHERE w.ended_at IS NULL OR w.end_reason = 'gone'
 ORDER BY w.created_at, w.endpoint_id
