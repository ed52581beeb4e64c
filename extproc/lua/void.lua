-- Forget the epoch, if it is still the one the caller knows. KEYS: epoch. ARGV: epoch.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
