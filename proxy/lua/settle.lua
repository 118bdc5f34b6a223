-- Ends reservations at their costs, before the log shows it: what they did not use is free at once.
-- KEYS[1]  state of the workspace, see budgets.lua, which stands in front of this
-- ARGV[…]  for each its id and its cost in nano-USD
-- returns  {1, now}
-- invariant: an end that is repeated, or comes for what is not open here, changes nothing.
for i = 1, #ARGV, 2 do
  settle(KEYS[1], ARGV[i], tonumber(ARGV[i + 1]))
end
local time = redis.call('TIME')
return { 1, tonumber(time[1]) * 1000000 + tonumber(time[2]) }
