-- Put failed deliveries back into the queue, as if they were new; those of an endpoint that ended stay.
UPDATE deliveries AS d
   SET state = 'pending', attempts = 0, next_attempt_at = %(now)s, claimed_until = '-infinity'
  FROM webhooks AS w
 WHERE w.endpoint_id = d.endpoint_id AND w.ended_at IS NULL AND d.state = 'failed'
   AND (%(delivery_ids)s::bigint[] IS NULL OR d.delivery_id = ANY (%(delivery_ids)s::bigint[]))
RETURNING d.delivery_id, d.endpoint_id, d.alert_id, d.state
