-- Put back the holds of calls under way that a lost store has forgotten. What is still there stays as it is.
-- Without an epoch the ledger is about to rebuild the counters, and adds up the holds that it finds itself.
-- KEYS: epoch, holds, hold_expiry
-- ARGV: for each hold: event id, hold as JSON, expiry (Unix ms). Returns how many were put back.
local rebuilt = redis.call('EXISTS', KEYS[1]) == 1
local count = 0
for i = 1, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    count = count + 1
    redis.call('ZADD', KEYS[3], ARGV[i + 2], ARGV[i])
    if rebuilt then
      local shares = cjson.decode(ARGV[i + 1])
      for j = 1, #shares, 2 do
        redis.call('HINCRBY', shares[j], 'held', string.format('%.0f', shares[j + 1]))
      end
    end
  end
end
return count
