-- Says that a producer lives, unless it was fenced.
-- KEYS[1]  rg:producers:<producer id>, a hash: seen (µs of Redis' clock), fenced (the same), by (who fenced)
-- ARGV[1]  time to live of the hash in ms
-- returns  "OK", or "FENCED"
-- invariant: once fenced, a producer is never seen again.
if redis.call('HEXISTS', KEYS[1], 'fenced') == 1 then
  return 'FENCED'
end
local t = redis.call('TIME')
redis.call('HSET', KEYS[1], 'seen', string.format('%d%06d', t[1], t[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 'OK'
