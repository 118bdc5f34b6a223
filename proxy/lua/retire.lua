-- Fences a producer in a workspace: nothing more is granted to it here.
-- KEYS[1]  state of the workspace, see budgets.lua
-- ARGV[1]  id of the producer, ARGV[2] the least epoch that proxies may use
-- ARGV[…]  ids of reservations of it that are known to have no opening in the log, and never to get one: they are released
-- returns  {1, now} and its reservations: id and text by turns; {0, now} where no proxy may use what is here: what is missing may have been lost
-- invariant: a fence stays as long as the hash, and comes back with the next one from the log.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local state = redis.call('HMGET', KEYS[1], 'epoch', 'who')
if tonumber(state[1] or 0) < tonumber(ARGV[2]) or state[2] ~= server() then
  return { 0, now }
end
redis.call('HSET', KEYS[1], 'f' .. ARGV[1], '1')
for i = 3, #ARGV do
  release(KEYS[1], ARGV[i])
end
local out, all = { 1, now }, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 1) == 'e' and all[i] ~= 'epoch' then
    local _, _, producer = reservation(all[i + 1])
    if producer == ARGV[1] then
      out[#out + 1], out[#out + 2] = string.sub(all[i], 2), all[i + 1]
    end
  end
end
return out
