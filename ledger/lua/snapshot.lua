-- One consistent look at everything the audit compares with the books.
-- KEYS: epoch, producers, holds, hold_expiry, counter 1 .. n
-- Returns: {epoch, {producer, seq ...}, {used, held, sum of the holds, ...} as text, {event id, expiry in Unix ms ...},
-- now in Unix ms}
local now = redis.call('TIME')
local held = {}
local holds = redis.call('HGETALL', KEYS[3])
local open = {}
for i = 1, #holds, 2 do
  local shares = cjson.decode(holds[i + 1])
  for j = 1, #shares, 2 do
    held[shares[j]] = (held[shares[j]] or 0) + shares[j + 1]
  end
  open[#open + 1] = holds[i]
  open[#open + 1] = redis.call('ZSCORE', KEYS[4], holds[i]) or '0'
end
local counters = {}
for i = 5, #KEYS do
  local counter = redis.call('HMGET', KEYS[i], 'used', 'held')
  counters[#counters + 1] = counter[1] or '0'
  counters[#counters + 1] = counter[2] or '0'
  counters[#counters + 1] = string.format('%.0f', held[KEYS[i]] or 0)
end
return {
  redis.call('GET', KEYS[1]) or '', redis.call('HGETALL', KEYS[2]), counters, open,
  string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
}
