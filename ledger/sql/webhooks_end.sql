-- End an endpoint: its secret is forgotten, and what was queued for it will not be sent.
WITH ended AS (
    UPDATE webhooks SET ended_at = coalesce(ended_at, %(now)s), end_reason = %(reason)s, secret = ''
     WHERE endpoint_id = %(endpoint_id)s AND (ended_at IS NULL OR end_reason <> 'removed')
    RETURNING endpoint_id, url, form, kinds, created_by, created_at
), dropped AS (
    UPDATE deliveries AS d SET state = 'dropped', last_error = 'The endpoint was ' || %(reason)s::text || '.'
      FROM ended WHERE d.endpoint_id = ended.endpoint_id AND d.state = 'pending'
)
SELECT * FROM ended
