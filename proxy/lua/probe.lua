-- Shows whether a server decides again: a read would also work where it only loads, follows or is full.
-- KEYS[1]  rg:probe, in a cluster rg:probe:{tag} in a slot that the server owns
-- ARGV[1]  time to live of the key in ms
-- returns  {"OK", Redis' time in µs}
-- invariant: nobody reads the key; losing it does no harm.
local t = redis.call('TIME')
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {'OK', t[1] * 1000000 + t[2]}
