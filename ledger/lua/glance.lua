-- What counters say is used of their budgets.
-- KEYS: epoch, counter 1 .. n
-- Returns: {epoch, used 1 .. n as text}
local seen = {redis.call('GET', KEYS[1]) or ''}
for i = 2, #KEYS do
  seen[i] = redis.call('HGET', KEYS[i], 'used') or '0'
end
return seen
