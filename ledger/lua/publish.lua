-- Publish documents, each only where it is newer than what is there, and note how far publishing has come.
-- KEYS: directory, directory_version, directory_changes
-- ARGV: most entries in directory_changes, then for each document, in the order of versions: name, version, JSON
-- Returns the version published so far.
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
for i = 2, #ARGV, 3 do
  local name, version, document = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local present = redis.call('HGET', KEYS[1], name)
  if not present or cjson.decode(present).version < version then
    redis.call('HSET', KEYS[1], name, document)
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'name', name, 'document', document)
  end
  if version > last then
    last = version
    redis.call('SET', KEYS[2], ARGV[i + 1])
  end
end
return last
