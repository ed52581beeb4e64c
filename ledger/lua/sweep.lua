-- Release holds that expired and that nobody settled.
-- KEYS: holds, hold_expiry. ARGV: most holds to release. Returns the event ids of those released.
-- The counters are named by the holds; all names carry one hash tag.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms, 'LIMIT', 0, ARGV[1])
for _, event_id in ipairs(expired) do
  local hold = redis.call('HGET', KEYS[1], event_id)
  if hold then
    local shares = cjson.decode(hold)
    for i = 1, #shares, 2 do
      -- A counter whose life has ended must not come back with less than nothing in it.
      if redis.call('EXISTS', shares[i]) == 1 then
        redis.call('HINCRBY', shares[i], 'held', string.format('%.0f', -shares[i + 1]))
      end
    end
    redis.call('HDEL', KEYS[1], event_id)
  end
  redis.call('ZREM', KEYS[2], event_id)
end
return expired
