-- The delivery that has waited longest, of an endpoint that nobody is sending to. It is this caller's until
-- `claimed_until`, and then anybody's: whoever claimed it may have died.
WITH claimed AS (
    UPDATE deliveries SET attempts = attempts + 1, claimed_until = %(claimed_until)s
     WHERE delivery_id = (
        SELECT d.delivery_id
          FROM deliveries AS d
         WHERE d.state = 'pending' AND d.next_attempt_at <= %(now)s AND d.claimed_until <= %(now)s
           AND NOT EXISTS (
            SELECT FROM deliveries AS other
             WHERE other.endpoint_id = d.endpoint_id AND other.state = 'pending' AND other.claimed_until > %(now)s)
         ORDER BY d.next_attempt_at, d.delivery_id
         LIMIT 1)
    RETURNING delivery_id, message_id, alert_id, endpoint_id, attempts
)
SELECT c.delivery_id, c.message_id, c.attempts, w.endpoint_id, w.url, w.secret, w.form, a.*
  FROM claimed AS c
  JOIN webhooks AS w USING (endpoint_id)
  JOIN alerts AS a USING (alert_id)
