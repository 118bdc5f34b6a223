-- Retires a producer: its heartbeat answers FENCED from now on.
-- KEYS[1]  rg:{producers}:<producer id>, see heartbeat.lua
-- ARGV[1]  time to live of the hash in ms
-- ARGV[2]  id of the producer that fences
-- returns  1 when this call fenced it, 0 when it was fenced before
-- invariant: the first fence stays; a repeat changes nothing but the time to live.
local t = redis.call('TIME')
local first = redis.call('HSETNX', KEYS[1], 'fenced', string.format('%d%06d', t[1], t[2]))
if first == 1 then
  redis.call('HSET', KEYS[1], 'by', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return first
