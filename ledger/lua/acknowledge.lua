-- Note what the books have committed and drop those entries from the stream.
-- KEYS: events, committed, producers
-- ARGV: consumer group, number of producers, then for each: producer, committed seq; then the entries' ids
-- Returns 1, or 0 where the books know more of a producer than Redis does: Redis has lost writes.
local sound = 1
local first_id = 3 + 2 * tonumber(ARGV[2])
for i = 3, first_id - 1, 2 do
  local seq = tonumber(ARGV[i + 1])
  if seq > tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or 0) then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
  if seq > tonumber(redis.call('HGET', KEYS[3], ARGV[i]) or 0) then
    sound = 0
  end
end
for i = first_id, #ARGV do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
return sound
