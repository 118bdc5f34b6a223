-- Takes or renews a lease that one process at a time should hold.
-- KEYS[1]  rg:{producers}:<office>
-- ARGV[1]  id of the producer that asks
-- ARGV[2]  length of the lease in ms
-- returns  1 when the asker holds it now, 0 when another does
-- invariant: the lease only saves work; two holders are safe, so losing this key does no harm.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
