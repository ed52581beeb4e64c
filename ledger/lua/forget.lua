-- Close the store and forget what will be rebuilt from the books. What is left: holds of calls under way, the stream.
-- KEYS: epoch, producers, committed, directory, directory_version
redis.call('DEL', unpack(KEYS))
return 1
