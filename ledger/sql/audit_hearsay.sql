-- Calls that somebody else pays for although no chain was proved.
SELECT event_id, billing, chain_trust
  FROM events
 WHERE billing IN ('root', 'split') AND chain_trust NOT IN ('verified', 'key_bound') AND root_team <> team
 ORDER BY occurred_at, event_id
 LIMIT %(most)s
