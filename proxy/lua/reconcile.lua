-- Brings the budgets of a workspace from one offset of the log to a later one.
-- KEYS[1]  state of the workspace, see budgets.lua
-- ARGV[1]  the epoch that is meant
-- ARGV[2]  the offset behind which the caller has seen every end, ARGV[3] the one up to which it has
-- ARGV[4]  number of balances; for each its field, and what the log shows as posted up to there
-- ARGV[…]  the ids of the reservations that ended between the two
-- returns  {1, now} applied, {0, now, at, epoch} not: another epoch, or the hash stands before the first offset, or behind the second
-- invariant: posted = confirmed + the costs of the settled entries, reserved = the amounts of the open ones, whatever is repeated or comes late.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local state = redis.call('HMGET', KEYS[1], 'epoch', 'at')
local at = tonumber(state[2] or -1)
if state[1] ~= ARGV[1] or at < tonumber(ARGV[2]) or at >= tonumber(ARGV[3]) then
  return { 0, now, at, tonumber(state[1] or 0) }
end
local a, count = 4, tonumber(ARGV[4])
for _ = 1, count do
  local field, shown = ARGV[a + 1], tonumber(ARGV[a + 2])
  local posted, reserved, confirmed = balance(redis.call('HGET', KEYS[1], field) or nil)
  redis.call('HSET', KEYS[1], field, balanceText(posted + shown - confirmed, reserved, shown))
  a = a + 2
end
for i = a + 1, #ARGV do
  local v = redis.call('HGET', KEYS[1], 'e' .. ARGV[i])
  if v then
    local kind, cost, _, pairs = reservation(v)
    if kind == 'o' then
      move(KEYS[1], pairs, 0, -1)
    else
      move(KEYS[1], pairs, -cost, 0) -- it is in confirmed now
    end
    drop(KEYS[1], ARGV[i])
  end
end
redis.call('HSET', KEYS[1], 'at', ARGV[3])
return { 1, now }
