SELECT d.delivery_id, d.alert_id, d.endpoint_id, w.url, w.form, a.name, a.kind, a.threshold, a.at, d.state,
       d.attempts, d.next_attempt_at, d.last_status, d.last_error, d.delivered_at
  FROM deliveries AS d
  JOIN alerts AS a USING (alert_id)
  JOIN webhooks AS w USING (endpoint_id)
 WHERE NOT %(failed)s OR d.state = 'failed'
 ORDER BY d.delivery_id DESC
 LIMIT %(limit)s
