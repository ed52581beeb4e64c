-- Grant as many tokens of output as fit into every counter, from `least` to `most`, and hold what they and the
-- call itself can cost; or hold nothing anywhere. Knows nothing of budgets: `judge` reads what it returns.
-- KEYS: epoch, holds, hold_expiry, counter 1 .. n
-- ARGV: epoch, event id, expiry (Unix ms), least, most, `grow` or ``,
--       then for each counter: base, per token, limit, end of its life (Unix ms; 0 never)
-- `grow`: add to the hold that the event has; refused where it has none any more.
-- Returns: {-1} the epoch is another; {admitted, granted, used 1, held 1, used 2, held 2 ...} as they were before.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {-1}
end
local id, least, granted = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local reply = {1, 0}
for i = 4, #KEYS do
  local counter = redis.call('HMGET', KEYS[i], 'used', 'held')
  local used, held = tonumber(counter[1] or 0), tonumber(counter[2] or 0)
  reply[#reply + 1] = used
  reply[#reply + 1] = held
  local at = 7 + (i - 4) * 4
  local room = tonumber(ARGV[at + 2]) - used - held - tonumber(ARGV[at])
  local per = tonumber(ARGV[at + 1])
  if room < 0 then
    granted = -1
  elseif per > 0 then
    granted = math.min(granted, math.floor(room / per))
  end
end
local hold = redis.call('HGET', KEYS[2], id)
if ARGV[6] == 'grow' and not hold then
  granted = -1
elseif ARGV[6] ~= 'grow' and hold then
  reply[2] = tonumber(ARGV[5])
  return reply
end
if granted < least then
  reply[1] = 0
  return reply
end
local shares = {}
if hold and hold ~= '[]' then
  shares[1] = string.sub(hold, 2, -2)
end
for i = 4, #KEYS do
  local at = 7 + (i - 4) * 4
  local amount = tonumber(ARGV[at]) + tonumber(ARGV[at + 1]) * granted
  if amount > 0 then
    local whole = string.format('%.0f', amount)
    redis.call('HINCRBY', KEYS[i], 'held', whole)
    if ARGV[at + 3] ~= '0' then
      redis.call('PEXPIREAT', KEYS[i], ARGV[at + 3])
    end
    shares[#shares + 1] = cjson.encode(KEYS[i]) .. ',' .. whole -- cjson writes 14 digits at most
  end
end
redis.call('HSET', KEYS[2], id, '[' .. table.concat(shares, ',') .. ']')
redis.call('ZADD', KEYS[3], ARGV[3], id)
reply[2] = granted
return reply
