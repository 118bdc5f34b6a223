-- Makes the budgets of a workspace anew from the log.
-- KEYS[1]  state of the workspace, see budgets.lua, which stands in front of this
-- ARGV[1]  the new epoch
-- ARGV[2]  the offset up to which the log was read
-- ARGV[3]  the policy version that is in force
-- ARGV[4]  time to live of the hash in ms
-- ARGV[5]  number of balances, then for each its field and its text
-- ARGV[…]  number of entries, then for each its id and its text
-- ARGV[…]  ids of the producers that are fenced
-- returns  {1, now} installed, {0, now} not: this epoch or a later one is here
-- invariant: an epoch is installed once; what an earlier one held is gone.
local function installed(fields)
  local kept = {}
  for i = 1, #fields do
    local kind = string.sub(fields[i], 1, 1)
    if (kind == 'b' or kind == 'q' or kind == 'e' or kind == 'f') and fields[i] ~= 'epoch' then
      kept[#kept + 1] = fields[i]
    end
  end
  return kept
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[1]) then
  return { 0, now }
end
local old = installed(redis.call('HKEYS', KEYS[1]))
for i = 1, #old, 1000 do
  redis.call('HDEL', KEYS[1], unpack(old, i, math.min(i + 999, #old)))
end
local a, count = 5, tonumber(ARGV[5])
for _ = 1, count do
  redis.call('HSET', KEYS[1], ARGV[a + 1], ARGV[a + 2])
  a = a + 2
end
a = a + 1
count = tonumber(ARGV[a]) -- in one statement with the line before, the stand-in's Lua reads the argument behind it
for _ = 1, count do
  redis.call('HSET', KEYS[1], 'e' .. ARGV[a + 1], ARGV[a + 2])
  local kind, _, _, pairs = reservation(ARGV[a + 2])
  if kind == 'l' then
    lend(KEYS[1], pairs, 1)
  end
  a = a + 2
end
for i = a + 1, #ARGV do
  redis.call('HSET', KEYS[1], 'f' .. ARGV[i], '1')
end
redis.call('HSETNX', KEYS[1], 'life', string.format('%.0f', now))
local version = math.max(tonumber(redis.call('HGET', KEYS[1], 'pv') or 0), tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'pv', string.format('%.0f', version), 'op', '0', 'n', string.format('%.0f', count), 'at', ARGV[2], 'epoch', ARGV[1], 'who', server())
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 1, now }
