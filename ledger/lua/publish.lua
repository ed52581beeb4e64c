-- Publish documents, each only where it is newer than what is published, and note how far publishing has come.
-- A document that says `removed` leaves the directory; who follows the changes is told.
-- KEYS: directory, directory_version, directory_changes
-- ARGV: most entries in directory_changes; the version that the documents follow; then for each document, in the order
--       of versions: name, version, JSON
-- Returns the version published so far. Where that was below what the documents follow, as after a rebuild has begun,
-- nothing is published: what lies between would be lost.
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
if last < tonumber(ARGV[2]) then
  return last
end
for i = 3, #ARGV, 3 do
  local name, version, document = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  if version > last then
    if cjson.decode(document).removed then
      redis.call('HDEL', KEYS[1], name)
    else
      redis.call('HSET', KEYS[1], name, document)
    end
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'name', name, 'document', document)
    last = version
    redis.call('SET', KEYS[2], ARGV[i + 1])
  end
end
return last
