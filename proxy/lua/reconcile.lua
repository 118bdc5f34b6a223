-- Brings the budgets of a workspace from one offset of the log to a later one.
-- KEYS[1]  state of the workspace, see budgets.lua
-- ARGV[1]  the epoch that is meant
-- ARGV[2]  the offset behind which the caller has seen every end, ARGV[3] the one up to which it has
-- ARGV[4]  1 where only balances are told that changed since the first offset: the hash has to stand at that one then
-- ARGV[5]  number of balances; for each its field, and what the log shows as posted up to there; "-" for one whose period the log has forgotten
-- ARGV[…]  number of reservations that the log shows open at the second offset and Redis may not have as they are, for each its id and its text: leases that
--          others were taken from, and those others
-- ARGV[…]  the ids of the reservations that ended between the two, some perhaps more than once
-- returns  {1, now} applied, {0, now, at, epoch} not: another epoch, or the hash stands before the first offset, not at it, or behind the second
-- invariant: posted = confirmed + the costs of the settled entries, reserved = the amounts of the open ones, whatever is repeated or comes late.
local CHUNK = 1000
local key = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local state = redis.call('HMGET', key, 'epoch', 'at')
local stands = tonumber(state[2] or -1)
local from = tonumber(ARGV[2])
if state[1] ~= ARGV[1] or stands < from or stands >= tonumber(ARGV[3]) or ARGV[4] == '1' and stands ~= from then
  return { 0, now, stands, tonumber(state[1] or 0) }
end

-- Each balance is read and written once, however many reservations of it ended.
local balances, forgotten = {}, {}
local function of(field)
  local b = balances[field]
  if not b then
    b = {}
    b.posted, b.reserved, b.confirmed = balance(redis.call('HGET', key, field) or nil)
    balances[field] = b
  end
  return b
end

local a, count = 5, tonumber(ARGV[5])
for _ = 1, count do
  local b, shown = of(ARGV[a + 1]), ARGV[a + 2]
  if shown == '-' then
    forgotten[#forgotten + 1] = ARGV[a + 1]
  else
    b.posted, b.confirmed = b.posted + tonumber(shown) - b.confirmed, tonumber(shown)
  end
  a = a + 2
end
local gone = 0

-- hold changes what an open reservation has reserved, by the pairs of its entry.
local function hold(kind, pairs, sign)
  for j = 1, #pairs do
    local b = of(pairs[j][1])
    b.reserved = b.reserved + sign * pairs[j][2]
  end
  if kind == 'l' then
    lend(key, pairs, sign)
  end
end

a = a + 1
count = tonumber(ARGV[a])
for _ = 1, count do
  local id, text = 'e' .. ARGV[a + 1], ARGV[a + 2]
  local held = redis.call('HGET', key, id)
  local kind, _, _, pairs = reservation(held or 's 0 -')
  if not held or kind ~= 's' then -- what is settled here has ended behind the second offset
    if held then
      hold(kind, pairs, -1)
    else
      gone = gone - 1
    end
    local as, _, _, all = reservation(text)
    hold(as, all, 1)
    redis.call('HSET', key, id, text)
  end
  a = a + 2
end
local seen = {}
for first = a + 1, #ARGV, CHUNK do
  local ids = {}
  for i = first, math.min(first + CHUNK - 1, #ARGV) do
    if not seen[ARGV[i]] then
      seen[ARGV[i]], ids[#ids + 1] = true, 'e' .. ARGV[i]
    end
  end
  local there, entries = {}, #ids > 0 and redis.call('HMGET', key, unpack(ids)) or {}
  for i = 1, #ids do
    if entries[i] then
      there[#there + 1] = ids[i]
      local kind, cost, _, pairs = reservation(entries[i])
      if kind ~= 's' then
        hold(kind, pairs, -1)
      else
        for j = 1, #pairs do
          local b = of(pairs[j][1])
          b.posted = b.posted - cost -- it is in confirmed now
        end
      end
    end
  end
  if #there > 0 then
    redis.call('HDEL', key, unpack(there))
    gone = gone + #there
  end
end
for i = 1, #forgotten do
  local b = balances[forgotten[i]]
  if b.reserved == 0 and b.posted == b.confirmed then
    redis.call('HDEL', key, forgotten[i])
    balances[forgotten[i]] = nil
  end
end
local set = { 'at', ARGV[3] }
for field, b in pairs(balances) do
  set[#set + 1], set[#set + 2] = field, balanceText(b.posted, b.reserved, b.confirmed)
  if #set >= CHUNK then
    redis.call('HSET', key, unpack(set))
    set = {}
  end
end
if #set > 0 then
  redis.call('HSET', key, unpack(set))
end
if gone ~= 0 then
  redis.call('HINCRBY', key, 'n', -gone)
end
return { 1, now }
