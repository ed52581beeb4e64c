-- Drop holds that have no call any more, and set what counters hold to the sum of the holds that are left.
-- KEYS: epoch, holds, hold_expiry, counter 1 .. n
-- ARGV: epoch, number of event ids, the ids of calls that have ended, then for each counter the end of its life
--       (Unix ms; 0 never)
-- Returns the number of holds dropped: of those calls, and those that expired; -1 where the epoch is another.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local first = 3 + tonumber(ARGV[2])
local ended = {}
for i = 3, first - 1 do
  ended[ARGV[i]] = true
end
local dropped = 0
local held = {}
local holds = redis.call('HGETALL', KEYS[2])
for i = 1, #holds, 2 do
  local id, shares = holds[i], cjson.decode(holds[i + 1])
  local drop = ended[id] or tonumber(redis.call('ZSCORE', KEYS[3], id) or 0) <= now_ms
  for j = 1, #shares, 2 do
    if not drop then
      held[shares[j]] = (held[shares[j]] or 0) + shares[j + 1]
    elseif redis.call('EXISTS', shares[j]) == 1 then
      redis.call('HINCRBY', shares[j], 'held', string.format('%.0f', -shares[j + 1]))
    end
  end
  if drop then
    redis.call('HDEL', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    dropped = dropped + 1
  end
end
for i = 4, #KEYS do
  redis.call('HSET', KEYS[i], 'held', string.format('%.0f', held[KEYS[i]] or 0))
  if ARGV[first + i - 4] ~= '0' then
    redis.call('PEXPIREAT', KEYS[i], ARGV[first + i - 4])
  end
end
return dropped
