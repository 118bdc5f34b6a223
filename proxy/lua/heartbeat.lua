-- Says that a producer lives, unless it was fenced.
-- KEYS[1]  rg:{producers}:<producer id>, a hash: seen (µs of Redis' clock), fenced (the same), by (who fenced)
-- KEYS[2]  rg:{producers}, a sorted set of the producers by when they were seen
-- ARGV[1]  time to live of the hash in ms
-- ARGV[2]  id of the producer
-- ARGV[3]  in µs, for how long after its last heartbeat a producer counts as living
-- returns  how many producers live, 0 when this one is fenced
-- invariant: once fenced, a producer is never seen again.
if redis.call('HEXISTS', KEYS[1], 'fenced') == 1 then
  redis.call('ZREM', KEYS[2], ARGV[2])
  return 0
end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local seen = string.format('%.0f', now)
redis.call('HSET', KEYS[1], 'seen', seen)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], seen, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now - tonumber(ARGV[3])))
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return redis.call('ZCARD', KEYS[2])
