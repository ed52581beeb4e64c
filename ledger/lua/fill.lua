-- Set rebuilt counters: what the books say was used, and what the holds of calls under way take.
-- KEYS: holds, counter 1 .. n. ARGV: for each counter: used, end of its life (Unix ms; 0 never).
local held = {}
local holds = redis.call('HVALS', KEYS[1])
for _, hold in ipairs(holds) do
  local shares = cjson.decode(hold)
  for i = 1, #shares, 2 do
    held[shares[i]] = (held[shares[i]] or 0) + shares[i + 1]
  end
end
for i = 2, #KEYS do
  local at = (i - 2) * 2 + 1
  redis.call('DEL', KEYS[i])
  redis.call('HSET', KEYS[i], 'used', ARGV[at], 'held', string.format('%.0f', held[KEYS[i]] or 0))
  if ARGV[at + 1] ~= '0' then
    redis.call('PEXPIREAT', KEYS[i], ARGV[at + 1])
  end
end
return 1
