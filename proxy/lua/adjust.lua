-- Changes what a decided request has taken: gives back what it did not use, takes what it used above, takes all of it back, or takes
-- afterwards what was let through while this store was away.
-- KEYS[1]  mark of the reservation, see admit.lua; it says when it consumed, which the caller does not know where the answer was lost
-- KEYS[2]  state of the workspace, see budgets.lua
-- KEYS[3…] the limits' keys, see limits() in buckets.lua
-- ARGV[1]  "settle": amounts above 0 are given back, below 0 taken
--          "cancel": everything is given back if the reservation has consumed; it never may again
--          "charge": amounts are taken, whatever the limits say, unless the reservation has consumed or was cancelled
-- ARGV[2]  id of the reservation that budgets hold; empty: none does. ARGV[3] of "settle" its cost in nano-USD, of "cancel" the id of the lease that was
--          asked for with it, empty for none
-- ARGV[4…] the limits; the last argument of each is when they were taken from, by this clock
-- returns  {1, now} done, {0, now} nothing was to be done; of "cancel" with a reservation, behind it the epoch by which this server may grant, 0: none. Where
--          that is older than the caller may use, the reservation may stand on another server: it has to be cancelled again
-- invariant: what was admitted stays within the limits as if the smaller amount had been taken in the first place (giveBack). Cancel and charge have one effect, however often they run.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local mode, taken, usable = ARGV[1], nil, nil
if ARGV[2] ~= '' then
  if mode == 'settle' then
    settle(KEYS[2], ARGV[2], tonumber(ARGV[3]))
  elseif mode == 'cancel' then
    release(KEYS[2], ARGV[2]) -- whether its mark still stands or not
    if ARGV[3] ~= '' then
      release(KEYS[2], ARGV[3])
    end
    local state = redis.call('HMGET', KEYS[2], 'epoch', 'who')
    usable = state[2] == server() and tonumber(state[1] or 0) or 0
  end
end
if mode == 'cancel' then
  local mark = redis.call('GET', KEYS[1])
  redis.call('SET', KEYS[1], 'x', 'PX', 15000)
  if not mark or string.sub(mark, 1, 1) ~= 'a' then
    return { 0, now, usable }
  end
  taken = tonumber(string.sub(mark, 2))
elseif mode == 'charge' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return { 0, now }
  end
  redis.call('SET', KEYS[1], 'a' .. format('%.0f', now), 'PX', 15000)
end

local all = limits(3, 2)
for i = 1, #all do
  local l = all[i]
  l.at = taken or l.at
  local back = mode == 'charge' and -l.amount or l.amount
  local v = redis.call('GET', l.key)
  if l.kind == 'b' or l.kind == 'l' then
    local n, at = level(l, v, now)
    if back < 0 then
      low(l, n, at)
      storeLevel(l, min(MOST, n - back * l.unit), at)
    elseif l.kind == 'b' then
      storeLevel(l, giveBack(l, n, at, l.at, back * l.unit), at)
    end
    -- A place in the queue of a leaky bucket is not given back: those behind it have their times already.
  elseif l.kind == 'f' then
    local n, start, at = count(l, v, now)
    if back < 0 or l.at >= start then
      n = max(0, n - back)
      storeCount(l, n, start, at)
    end
  else
    local n, last, at = total(l, v, now)
    if back < 0 then
      storeTotal(l, n, last, at, -back)
    else
      local field = format('%.0f', l.at - l.at % l.slot + l.slot - 1)
      local taken = tonumber(redis.call('HGET', l.hash, field) or 0)
      back = min(back, taken)
      if back > 0 then
        redis.call('HINCRBY', l.hash, field, format('%.0f', -back))
        redis.call('SET', l.key, format('s %.0f %.0f %s', n - back, last, l.windowText), 'KEEPTTL')
      end
    end
  end
end
return { 1, now, usable }
