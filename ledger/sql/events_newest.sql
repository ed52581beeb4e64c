-- The newest events first; ledger/spend.py fills the braces.
SELECT * FROM events
 WHERE occurred_at >= coalesce(%(since)s::timestamptz, '-infinity')
   AND occurred_at < coalesce(%(until)s::timestamptz, 'infinity')
   AND {where}
 ORDER BY occurred_at DESC, event_id DESC
 LIMIT %(limit)s
