-- Hold an amount in one counter if it is left there, as a call under way does. Decides nothing else.
-- KEYS: epoch, holds, hold_expiry, counter
-- ARGV: epoch, name of the hold, how long it may last (ms), amount, limit of the counter
-- Returns: {-1} the epoch is another; {1 held or 0 refused, used, held} as they were before.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {-1}
end
local counter = redis.call('HMGET', KEYS[4], 'used', 'held')
local used, held = tonumber(counter[1] or 0), tonumber(counter[2] or 0)
if used + held + tonumber(ARGV[4]) > tonumber(ARGV[5]) then
  return {0, counter[1] or '0', counter[2] or '0'}
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HINCRBY', KEYS[4], 'held', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[2], '[' .. cjson.encode(KEYS[4]) .. ',' .. ARGV[4] .. ']')
redis.call('ZADD', KEYS[3], string.format('%.0f', now_ms + tonumber(ARGV[3])), ARGV[2])
return {1, counter[1] or '0', counter[2] or '0'}
