-- Record one alert, unless it is there, and queue it for every endpoint that asked for its kind.
WITH recorded AS (
    INSERT INTO alerts (budget_id, window_name, kind, threshold, round, at, name, selector, unit, amount, used,
                        window_starts_at, window_ends_at, gone_at, overrun_nanos, message)
    VALUES (%(budget_id)s, %(window_name)s, %(kind)s, %(threshold)s, %(round)s, %(at)s, %(name)s, %(selector)s,
            %(unit)s, %(amount)s, %(used)s, %(starts_at)s, %(ends_at)s, %(gone_at)s,
            %(overrun_nanos)s, %(message)s)
    ON CONFLICT DO NOTHING
    RETURNING alert_id, kind
), queued AS (
    INSERT INTO deliveries (alert_id, endpoint_id, next_attempt_at)
    SELECT r.alert_id, w.endpoint_id, %(at)s
      FROM recorded AS r
      JOIN webhooks AS w ON w.ended_at IS NULL AND (w.kinds = '{}' OR r.kind = ANY (w.kinds))
)
SELECT alert_id FROM recorded
