-- Take over a producer's next events: swap each hold for the real amounts and append the event to the stream.
-- Once only, whatever is sent again: a producer's events come in the order of their seq.
-- KEYS: epoch, holds, hold_expiry, producers, committed, events
-- ARGV: epoch, producer, most entries in the stream, then for each event: seq, event id, payload,
--       JSON array [counter, amount, end of its life (Unix ms; 0 never) ...]
-- Returns: {status, last seq taken, last seq committed}; status 1 taken, 0 the stream is full (nothing taken),
-- -1 the epoch is another, -2 events before the first one sent are missing here.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {-1, 0, 0}
end
local producer = ARGV[2]
local last = tonumber(redis.call('HGET', KEYS[4], producer) or 0)
local committed = tonumber(redis.call('HGET', KEYS[5], producer) or 0)
if #ARGV < 4 then
  return {1, last, committed}
end
if tonumber(ARGV[4]) > last + 1 then
  return {-2, last, committed}
end
if redis.call('XLEN', KEYS[6]) >= tonumber(ARGV[3]) then
  return {0, last, committed}
end
for i = 4, #ARGV, 4 do
  if tonumber(ARGV[i]) > last then
    local id = ARGV[i + 1]
    local hold = redis.call('HGET', KEYS[2], id)
    if hold then
      local shares = cjson.decode(hold)
      for j = 1, #shares, 2 do
        redis.call('HINCRBY', shares[j], 'held', -shares[j + 1])
      end
      redis.call('HDEL', KEYS[2], id)
      redis.call('ZREM', KEYS[3], id)
    end
    local counters = cjson.decode(ARGV[i + 3])
    for j = 1, #counters, 3 do
      redis.call('HINCRBY', counters[j], 'used', counters[j + 1])
      if counters[j + 2] > 0 then
        redis.call('PEXPIREAT', counters[j], counters[j + 2])
      end
    end
    redis.call('XADD', KEYS[6], '*', 'e', ARGV[i + 2])
    last = tonumber(ARGV[i])
  end
end
redis.call('HSET', KEYS[4], producer, last)
return {1, last, committed}
