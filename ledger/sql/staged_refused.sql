-- Staged events that are not in the books after all: another event holds the seq of their producer.
SELECT s.event_id, s.producer, s.seq
  FROM staged AS s
 WHERE NOT EXISTS (SELECT FROM events AS e WHERE e.event_id = s.event_id AND e.occurred_at = s.occurred_at)
