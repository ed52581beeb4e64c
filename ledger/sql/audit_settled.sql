SELECT event_id, producer, seq FROM events WHERE event_id = ANY(%(event_ids)s)
