-- What came of an attempt. One that somebody else has claimed meanwhile is theirs to report.
UPDATE deliveries
   SET state = %(state)s, next_attempt_at = %(next_attempt_at)s, claimed_until = '-infinity',
       last_status = %(status)s, last_error = %(error)s,
       delivered_at = CASE WHEN %(state)s = 'delivered' THEN %(now)s::timestamptz END
 WHERE delivery_id = %(delivery_id)s AND attempts = %(attempts)s AND state = 'pending'
