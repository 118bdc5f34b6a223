-- Keeps the policy with the largest version.
-- KEYS[1]: keyspace.Policy. ARGV: version, document, TTL in ms.
-- Answer: 1 written, 0 a version as large was there already; its TTL is renewed either way.
local stands = redis.call('HGET', KEYS[1], 'v')
local newer = not stands or tonumber(ARGV[1]) > tonumber(stands)
if newer then
  redis.call('HSET', KEYS[1], 'v', ARGV[1], 'd', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return newer and 1 or 0
