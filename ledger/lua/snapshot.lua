-- One consistent look at everything that is compared with the books.
-- KEYS: epoch, producers, holds, hold_expiry, counter 1 .. n
-- Returns: {epoch, {producer, seq ...}, {used, held ...} as text, `` where there is none,
-- {event id, expiry in Unix ms, hold as JSON ...}, now in Unix ms}
local now = redis.call('TIME')
local holds = redis.call('HGETALL', KEYS[3])
local open = {}
for i = 1, #holds, 2 do
  open[#open + 1] = holds[i]
  open[#open + 1] = redis.call('ZSCORE', KEYS[4], holds[i]) or '0'
  open[#open + 1] = holds[i + 1]
end
local counters = {}
for i = 5, #KEYS do
  local counter = redis.call('HMGET', KEYS[i], 'used', 'held')
  counters[#counters + 1] = counter[1] or ''
  counters[#counters + 1] = counter[2] or ''
end
return {
  redis.call('GET', KEYS[1]) or '', redis.call('HGETALL', KEYS[2]), counters, open,
  string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
}
