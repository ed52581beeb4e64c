-- Add an amount to every counter, or to none. Knows nothing of budgets: `judge` reads what it returns.
-- KEYS: epoch, holds, hold_expiry, counter 1 .. n
-- ARGV: epoch, event id, expiry (Unix ms), hold as JSON, then for each counter: amount, limit, end of its life (Unix ms; 0 never)
-- Returns: {-1} the epoch is another; {admitted, used 1, held 1, used 2, held 2 ...} as they were before.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {-1}
end
local reply = {1}
for i = 4, #KEYS do
  local counter = redis.call('HMGET', KEYS[i], 'used', 'held')
  local used, held = tonumber(counter[1] or 0), tonumber(counter[2] or 0)
  reply[#reply + 1] = used
  reply[#reply + 1] = held
  local at = 5 + (i - 4) * 3
  if used + held + tonumber(ARGV[at]) > tonumber(ARGV[at + 1]) then
    reply[1] = 0
  end
end
if reply[1] == 0 or redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[4]) == 0 then
  return reply
end
for i = 4, #KEYS do
  local at = 5 + (i - 4) * 3
  redis.call('HINCRBY', KEYS[i], 'held', ARGV[at])
  if ARGV[at + 2] ~= '0' then
    redis.call('PEXPIREAT', KEYS[i], ARGV[at + 2])
  end
end
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
return reply
