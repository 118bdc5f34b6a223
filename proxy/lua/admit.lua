-- Decides one request: takes from all of its limits and budgets, or from none.
-- KEYS[1]  state of the workspace, a hash: life (names the life of this state), pv (largest policy version seen), day (of the last renewal), and
--          what budgets.lua names
-- KEYS[2]  mark of the reservation: "a" and the time once it has consumed, "x" once it never may
-- KEYS[3]  set of the workspace's revoked keys
-- KEYS[4…] the limits' keys, see limits() in buckets.lua
-- ARGV[1]  identity of the server that the caller knows, ARGV[2] the life that it knows; empty: none yet
-- ARGV[3]  policy version of the caller
-- ARGV[4]  what the caller takes for the time here, in µs; 0: it does not know
-- ARGV[5]  the time here, in µs, from which on nobody waits for the answer; 0: none
-- ARGV[6]  id of the API key
-- ARGV[7]  number of budgets. Where there are some, they begin with ARGV[8] the id of the reservation, ARGV[9] that of the caller's producer, ARGV[10] the least
--          epoch that it may use, ARGV[11] how many reservations may stand here at once, and ARGV[12…15] the lease that the caller would like on top: its
--          id, empty for none, how much, the least that helps, and the percentage of a limit that all leases together may hold. Then for each: name of
--          the balance without its period, limit, amount (with a lease, 0 in all: it is all that the caller wants), 1 if it is hard, starts of this period as the
--          caller sees it and of the two behind it
-- ARGV[…]  the limits, see limits()
-- returns  {1, now, identity, life, and for each limit: used, remaining, reset µs, delay µs}   admitted; identity and life are empty where they are as known;
--              behind all limits, for each of kind p: units lent, and 1 if what the caller holds still counts; behind these, if there are
--              budgets: epoch, op, and for each: start of the period, posted and reserved after the decision, and what stands in the way: 0 nothing, 1 what
--              is reserved, 2 what is posted; then what the lease holds of each, 0 without one, and its op
--          {0, now, identity, life, and for each limit: used, remaining, reset µs, retry µs}   denied: retry is not 0 where a limit stands in the way
--          {2, now} it has consumed before   {3, now} it was cancelled   {4, now} the key is revoked   {5, now} too late
--          {6, now} the clock is not what the caller takes it for   {7, now, identity, life} another state than the caller's
--          {8, now, version} the caller's policy is old   {9, now, epoch} of budgets: another epoch than the caller may use, none, or one of another server
--          {10, now} the producer is fenced   {11, now} the caller knows no period of now   {12, now} too many reservations
-- invariant: any answer but 1 has consumed nothing; 1 is given once for a reservation; per limit, what is admitted between two instants of this clock is at most
--          what its algorithm allows (buckets), however many proxies ask, and by how much they hold unspent of a bucket of kind p, which
--          together is never more than its most.

-- lendUnits sets units of a bucket aside, which its caller may spend later without asking, until ttl after now. They are taken from the bucket at
-- once, with those of the request. Each holder gets what it would like, at most an equal part of what all may hold, and of a bucket that
-- runs low an equal part of its half. Returns the units, and whether what the caller held still counted.
local function lendUnits(l, now)
  local all = redis.call('HGETALL', l.holders)
  local mine, others, n, gone = nil, 0, 1, {}
  for i = 1, #all, 2 do
    local held, ends = match(all[i + 1], '^(%d+) (%d+)$')
    if tonumber(ends) <= now then
      gone[#gone + 1] = all[i]
    elseif all[i] == l.holder then
      mine = tonumber(held)
    else
      others, n = others + tonumber(held), n + 1
    end
  end
  local held = min(l.held, mine or 0)
  local room = floor((l.limit * l.unit - l.n) / l.unit / (2 * n))
  local units = min(l.want, floor(l.most / n) - held, l.most - others - held, room)
  if units < l.least then
    units = 0
  end
  if gone[1] then
    redis.call('HDEL', l.holders, unpack(gone))
  end
  if l.want > 0 or held > 0 then
    redis.call('HSET', l.holders, l.holder, format('%.0f %.0f', held + units, now + l.ttl * 1000))
    redis.call('PEXPIRE', l.holders, format('%.0f', l.ttl + GRACE))
  else
    redis.call('HDEL', l.holders, l.holder)
  end
  return units, mine and 1 or 0
end

-- leaseOf returns how much a lease gets of each budget: no more than an eighth of what is left of a hard one, so that requests that ask here find room
-- close to the limit, and of what all leases may hold together.
local function leaseOf(budgets, state)
  local units, share = tonumber(ARGV[13]), tonumber(ARGV[15])
  for i = 1, #budgets do
    local b = budgets[i]
    if b.hard then
      units = min(units, floor((b.limit - b.posted - b.reserved) / 8))
    end
    units = min(units, floor(b.limit / 100) * share - tonumber(state[8 + #budgets + i] or 0))
  end
  return units >= tonumber(ARGV[14]) and units or 0
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local estimate, deadline = tonumber(ARGV[4]), tonumber(ARGV[5])
if estimate > 0 and (now - estimate > BACK or estimate - now > BACK) then
  return { 6, now }
end
if deadline > 0 and now > deadline then
  return { 5, now }
end

-- The identity is read here, as a check at dial would miss a node that was demoted and promoted again. Where a store has none, its life names it.
local identity = server()
local asked = tonumber(ARGV[7])
local budgets = holds(15, asked, now)
local fields = { 'life', 'pv', 'day' }
if asked > 0 then
  fields = { 'life', 'pv', 'day', 'epoch', 'op', 'n', 'f' .. ARGV[9], 'who' }
  for i = 1, budgets and asked or 0 do
    fields[8 + i], fields[8 + asked + i] = budgets[i].field, 'q' .. budgets[i].field
  end
end
local state = redis.call('HMGET', KEYS[1], unpack(fields))
local life, version, mine = state[1] or '', tonumber(state[2] or 0), tonumber(ARGV[3])
if (ARGV[1] ~= '' and identity ~= ARGV[1]) or (ARGV[2] ~= '' and life ~= ARGV[2]) then
  return { 7, now, identity, life }
end
if mine < version then
  return { 8, now, version }
end
if redis.call('SISMEMBER', KEYS[3], ARGV[6]) == 1 then
  return { 4, now }
end

if not budgets then
  return { 11, now }
end
local epoch, op = tonumber(state[4] or 0), tonumber(state[5] or 0)
if asked > 0 then
  if state[7] then
    return { 10, now }
  end
  if epoch == 0 or epoch < tonumber(ARGV[10]) or state[8] ~= identity then
    return { 9, now, epoch }
  end
  if tonumber(state[6] or 0) >= tonumber(ARGV[11]) then
    return { 12, now }
  end
end

local all = limits(asked > 0 and 15 + HOLD * asked or 7, 3)
local names = { KEYS[2] }
for i = 1, #all do
  names[i + 1] = all[i].key
end
local values = redis.call('MGET', unpack(names))
if values[1] then
  return { values[1] == 'x' and 3 or 2, now }
end

local day = format('%.0f', floor(now / 86400000000))
if life == '' or mine > version or state[3] ~= day then
  if life == '' then
    life = format('%.0f', now)
  end
  redis.call('HSET', KEYS[1], 'life', life, 'pv', format('%.0f', max(mine, version)), 'day', day)
  redis.call('PEXPIRE', KEYS[1], 34560000000)
end

local reply = { 1, now, ARGV[1] == '' and identity or '', ARGV[2] == '' and life or '' }
for i = 1, #all do
  local l, v = all[i], values[i + 1] or nil
  local wait = 0
  if l.kind == 'b' then
    l.n, l.now = level(l, v, now)
    if l.holders and l.back > 0 then
      l.n, l.changed = giveBack(l, l.n, l.now, l.backAt, l.back * l.unit), true
      l.now = l.n > 0 and l.now or now
    end
    if l.amount > 0 and l.n + l.amount * l.unit > l.limit * l.unit then
      wait = max(1, ceil((l.n + l.amount * l.unit - l.limit * l.unit) / l.drain) + l.now - now)
    end
  elseif l.kind == 'l' then
    l.n, l.now = level(l, v, now)
    l.most = min(l.limit * l.unit, l.delay * l.drain)
    if l.amount > 0 and l.n > l.most then
      wait = max(1, ceil((l.n - l.most) / l.drain) + l.now - now)
    end
  elseif l.kind == 'f' then
    l.n, l.start, l.now = count(l, v, now)
    if l.amount > 0 and l.n + l.amount > l.limit then
      wait = max(1, l.start + l.window - now)
    end
  else
    l.n, l.last, l.now = total(l, v, now)
    if l.amount > 0 and l.n + l.amount > l.limit then
      wait = max(1, frees(l, l.n + l.amount - l.limit, l.now) + l.now - now)
    end
  end
  l.wait = wait
  if wait > 0 then
    reply[1] = 0
  end
end

for i = 1, #budgets do
  local b = budgets[i]
  b.posted, b.reserved, b.confirmed = balance(state[8 + i] or nil)
  b.stands = 0
  if b.hard and b.posted + b.reserved + b.amount > b.limit then
    b.stands = b.posted + b.amount > b.limit and 2 or 1
    reply[1] = 0
  end
end

local admitted, lent = reply[1] == 1, {}
if admitted then
  redis.call('SET', KEYS[2], 'a' .. format('%.0f', now), 'PX', 15000)
end
for i = 1, #all do
  local l = all[i]
  local r = 4 * i
  if l.kind == 'b' or l.kind == 'l' then
    local delay = 0
    if admitted and l.amount > 0 then
      if l.kind == 'l' then
        delay = ceil(l.n / l.drain)
      end
      low(l, l.n, l.now)
      l.n = l.n + l.amount * l.unit
      l.changed = true
    end
    if admitted and l.holders then
      local units, counted = lendUnits(l, now)
      low(l, l.n, l.now)
      l.n = l.n + units * l.unit
      l.changed = l.changed or units > 0
      lent[#lent + 1], lent[#lent + 2] = units, counted
    end
    if l.changed then
      storeLevel(l, l.n, l.now)
    end
    reply[r + 1] = ceil(l.n / l.unit)
    if l.kind == 'b' then
      reply[r + 2] = max(0, floor((l.limit * l.unit - l.n) / l.unit))
    else
      reply[r + 2] = l.n > l.most and 0 or floor((l.most - l.n) / l.unit) + 1
    end
    reply[r + 3] = max(0, ceil(l.n / l.drain))
    reply[r + 4] = admitted and delay or l.wait
  elseif l.kind == 'f' then
    if admitted and l.amount > 0 then
      l.n = l.n + l.amount
      storeCount(l, l.n, l.start, l.now)
    elseif l.changed then
      storeCount(l, l.n, l.start, l.now)
    end
    reply[r + 1], reply[r + 2] = l.n, max(0, l.limit - l.n)
    reply[r + 3], reply[r + 4] = l.start + l.window - l.now, l.wait
  else
    if admitted and l.amount > 0 then
      l.last = storeTotal(l, l.n, l.last, l.now, l.amount)
      l.n = l.n + l.amount
    end
    reply[r + 1], reply[r + 2] = l.n, max(0, l.limit - l.n)
    reply[r + 3], reply[r + 4] = l.n > 0 and max(0, l.last + l.window - l.now) or 0, l.wait
  end
end
for i = 1, #lent do
  reply[#reply + 1] = lent[i]
end
if asked > 0 then
  local set, n, made = {}, tonumber(state[6] or 0), op
  if admitted and (budgets[1].amount > 0 or ARGV[12] == '') then
    local entry = 'o 0 ' .. ARGV[9]
    for i = 1, #budgets do
      local b = budgets[i]
      b.reserved = b.reserved + b.amount
      entry = entry .. format(' %s %.0f', b.field, b.amount)
    end
    made = made + 1
    set[1], set[2] = 'e' .. ARGV[8], entry
  end
  local units, granted = 0, made
  if admitted and ARGV[12] ~= '' and n + made - op < tonumber(ARGV[11]) then
    units = leaseOf(budgets, state)
    if units > 0 then
      local entry, pairs = 'l 0 ' .. ARGV[9], {}
      for i = 1, #budgets do
        entry = entry .. format(' %s %.0f', budgets[i].field, units)
        pairs[i] = { budgets[i].field, units }
      end
      lend(KEYS[1], pairs, 1)
      granted = made + 1
      set[#set + 1], set[#set + 2] = 'e' .. ARGV[12], entry
    end
  end
  if granted > op then
    for i = 1, #budgets do
      local b = budgets[i]
      set[#set + 1], set[#set + 2] = b.field, balanceText(b.posted, b.reserved + units, b.confirmed)
    end
    redis.call('HSET', KEYS[1], 'op', format('%.0f', granted), 'n', format('%.0f', n + granted - op), unpack(set))
  end
  reply[#reply + 1], reply[#reply + 2] = epoch, made
  for i = 1, #budgets do
    local b, r = budgets[i], #reply
    reply[r + 1], reply[r + 2], reply[r + 3], reply[r + 4] = b.start, b.posted, b.reserved, b.stands
  end
  reply[#reply + 1], reply[#reply + 2] = units, granted
end
return reply
