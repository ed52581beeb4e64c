-- Add what the ledger owes to the counters, each adjustment once and in order.
-- KEYS: epoch, producers, counter 1 .. n
-- ARGV: epoch, name of the ledger in producers, then for each counter: adjustment id, amount, end of its life
--       (Unix ms; 0 never)
-- Returns the last adjustment applied, or -1 where the epoch is another.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
local last = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0)
for i = 3, #KEYS do
  local at = 3 + (i - 3) * 3
  if tonumber(ARGV[at]) > last then
    redis.call('HINCRBY', KEYS[i], 'used', ARGV[at + 1])
    if ARGV[at + 2] ~= '0' then
      redis.call('PEXPIREAT', KEYS[i], ARGV[at + 2])
    end
    last = tonumber(ARGV[at])
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[at])
  end
end
return last
