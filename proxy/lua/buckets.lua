-- What limits count, one way for each algorithm. This text stands in front of admit.lua and adjust.lua.
--
-- A limit has a bucket: a string, whose first letter says how it counts. Numbers are doubles that hold integers below 2^53.
--   b level time unit drain   token and leaky buckets: each unit weighs `unit`, and `drain` leaks out a µs. Where units are given back as
--                             a rule, pairs follow, of a time and a level: see lows below
--   f start count window      fixed windows, aligned to the epoch
--   s total last window       sliding windows; the list beside it holds the end of each slot that counts, oldest first, the
--                             hash what was taken in it. A slot of 1 µs makes the log exact.
-- A bucket that another algorithm, rate or window left behind is taken over: what was used stays used. It is written anew by the
-- first call that meets it, a denial too (`changed`), or it would leak by the old rate until one is admitted, whatever wait is told.
-- A time that is stored wins over a clock that went back, up to BACK; from further ahead it was written by a clock that was wrong,
-- and the bucket is written anew likewise, or it would stand still until the clock has caught up.
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local match, format = string.match, string.format
local BACK, MOST, GRACE = 60000000, 4503599627370496, 60000

-- used returns what a bucket of any kind shows as used.
local function used(v, now)
  local kind = string.sub(v, 1, 1)
  if kind == 'b' then
    local level, at, unit, drain = match(v, '^b (%d+) (%d+) (%d+) (%d+)')
    level, at, unit, drain = tonumber(level), tonumber(at), tonumber(unit), tonumber(drain)
    return ceil(max(0, level - max(0, now - at) * drain) / unit)
  end
  local start, count, window
  if kind == 'f' then
    start, count, window = match(v, '^f (%d+) (%d+) (%d+)$')
  else
    count, start, window = match(v, '^s (%d+) (%d+) (%d+)$')
  end
  if now < tonumber(start) + tonumber(window) then
    return tonumber(count)
  end
  return 0
end

-- A token bucket's lows say how low it has stood since any instant: pairs of a time and the level just before units were taken then,
-- of which only those stay that no later one undercuts, so that both rise. Of more than l.keep pairs, the two whose levels differ least,
-- in proportion, become one that is no higher than either.

-- forget makes a bucket's past unknown, as if it had been empty now.
local function forget(l, now)
  if l.keep > 0 then
    l.lows = { now, 0 }
  end
end

-- low notes the level before units are taken.
local function low(l, n, now)
  local lows = l.lows
  local last = #lows
  if l.keep == 0 then
    return
  end
  while last > 0 and lows[last] >= n do
    lows[last], lows[last - 1], last = nil, nil, last - 2
  end
  lows[last + 1], lows[last + 2] = now, n
  if last + 2 > 2 * l.keep then
    local least, at = 1, 2
    for i = 2, last, 2 do
      local rise = (lows[i + 2] - lows[i]) / lows[i + 2]
      if rise < least then
        least, at = rise, i
      end
    end
    lows[at - 1] = lows[at + 1]
    table.remove(lows, at + 2)
    table.remove(lows, at + 1)
  end
end

-- giveBack returns the level after `back` of what was taken at an instant went back. No more goes back than the lowest level since then: below
-- that, what has leaked out meanwhile would have leaked out of the smaller amount too. The level is then what it would be if only the
-- rest had been taken in the first place. Where the lows do not reach back, what can have leaked since then is left out.
local function giveBack(l, n, now, taken, back)
  local most, i = back - max(0, now - taken) * l.drain, 1
  local lows = l.lows
  if l.keep > 0 then
    low(l, n, now)
    while i < #lows - 1 and lows[i] <= taken do
      i = i + 2
    end
    most = max(most, lows[i + 1])
  end
  local units = min(back, most, n)
  if units <= 0 then
    return n
  end
  for j = i + 1, #lows, 2 do
    lows[j] = max(0, lows[j] - units)
  end
  while i > 1 and lows[i - 1] >= lows[i + 1] do
    table.remove(lows, i - 1)
    table.remove(lows, i - 2)
    i = i - 2
  end
  return n - units
end

-- level returns the level of a token or leaky bucket and the time it is of.
local function level(l, v, now)
  if not v then
    return 0, now
  end
  local at, unit, drain, n = 0, l.unit, l.drain, 0
  local stored, time, oldUnit, oldDrain, lows = match(v, '^b (%d+) (%d+) (%d+) (%d+)(.*)$')
  if not stored then
    l.changed = true
    forget(l, now)
    return min(used(v, now) * unit, MOST), now
  end
  if l.keep > 0 then
    for number in string.gmatch(lows, '%d+') do
      l.lows[#l.lows + 1] = tonumber(number)
    end
    if lows == '' then
      forget(l, now)
    end
  end
  n, at = tonumber(stored), tonumber(time)
  if at > now then
    if at - now > BACK then
      at, l.changed = now, true
      forget(l, now)
    else
      now = at
    end
  end
  if oldUnit ~= l.unitText or oldDrain ~= l.drainText then
    -- Another rate held until nobody knows when: the slower of the two leaks.
    l.changed = true
    forget(l, now)
    local u = tonumber(oldUnit)
    local whole = floor(n / u)
    n = min(whole * unit + ceil((n - whole * u) / u * unit), MOST)
    drain = min(drain, tonumber(oldDrain) / u * unit)
    return max(0, n - floor((now - at) * drain)), now
  end
  return max(0, n - (now - at) * drain), now
end

local function storeLevel(l, n, now)
  if n <= 0 then
    redis.call('DEL', l.key)
    return
  end
  local v = format('b %.0f %.0f %s %s', n, now, l.unitText, l.drainText)
  for i = 1, #l.lows do
    v = v .. format(' %.0f', l.lows[i])
  end
  redis.call('SET', l.key, v, 'PX', format('%.0f', ceil(n / l.drain / 1000) + GRACE))
end

-- count returns what a fixed window has counted, where it began and the time it is of.
local function count(l, v, now)
  local w = l.window
  if not v then
    return 0, now - now % w, now
  end
  local start, n, old = match(v, '^f (%d+) (%d+) (%d+)$')
  l.changed = not start or old ~= l.windowText
  if not start then
    return used(v, now), now - now % w, now
  end
  start, n = tonumber(start), tonumber(n)
  if start > now then
    if start - now > BACK then
      l.changed = true
      return n, now - now % w, now
    end
    now = start
  end
  if now >= start + tonumber(old) then
    n = 0
  end
  return n, now - now % w, now
end

local function storeCount(l, n, start, now)
  redis.call('SET', l.key, format('f %.0f %.0f %s', start, n, l.windowText), 'PX',
    format('%.0f', ceil((start + l.window - now) / 1000) + GRACE))
end

-- restart begins the log of a sliding window with what is used already.
local function restart(l, n, now)
  redis.call('DEL', l.list, l.hash)
  if n <= 0 then
    redis.call('DEL', l.key)
    return 0, 0, now
  end
  local last = now - now % l.slot + l.slot - 1
  local field, ttl = format('%.0f', last), format('%.0f', ceil((l.window + l.slot) / 1000) + GRACE)
  redis.call('RPUSH', l.list, field)
  redis.call('HSET', l.hash, field, format('%.0f', n))
  redis.call('PEXPIRE', l.list, ttl)
  redis.call('PEXPIRE', l.hash, ttl)
  redis.call('SET', l.key, format('s %.0f %s %s', n, field, l.windowText), 'PX', ttl)
  return n, last, now
end

-- total returns what a sliding window counts, the end of its newest slot and the time it is of. What has left the window is dropped.
local function total(l, v, now)
  if not v then
    return restart(l, 0, now)
  end
  local n, last = match(v, '^s (%d+) (%d+)')
  if not n then
    return restart(l, used(v, now), now)
  end
  n, last = tonumber(n), tonumber(last)
  if last - l.slot >= now then
    if last - l.slot - now > BACK then
      return restart(l, n, now)
    end
    now = last
  end
  local changed, empty = false, false
  while true do
    local ends = redis.call('LRANGE', l.list, 0, 31)
    local gone = 0
    while ends[gone + 1] and tonumber(ends[gone + 1]) + l.window <= now do
      gone = gone + 1
    end
    empty = not ends[gone + 1] and gone < 32
    if gone == 0 then
      break
    end
    local costs = redis.call('HMGET', l.hash, unpack(ends, 1, gone))
    for i = 1, gone do
      n = n - tonumber(costs[i] or 0)
    end
    redis.call('HDEL', l.hash, unpack(ends, 1, gone))
    redis.call('LTRIM', l.list, gone, -1)
    changed = true
    if gone < 32 then
      break
    end
  end
  if empty then
    redis.call('DEL', l.key, l.hash)
    return 0, 0, now
  end
  if changed then
    redis.call('SET', l.key, format('s %.0f %.0f %s', max(0, n), last, l.windowText), 'KEEPTTL')
  end
  return max(0, n), last, now
end

local function storeTotal(l, n, last, now, cost)
  local slot = now - now % l.slot + l.slot - 1
  if slot < last then
    slot = last
  end
  local field = format('%.0f', slot)
  redis.call('HINCRBY', l.hash, field, format('%.0f', cost))
  if slot ~= last then
    redis.call('RPUSH', l.list, field)
  end
  local ttl = format('%.0f', ceil((l.window + l.slot) / 1000) + GRACE)
  redis.call('PEXPIRE', l.list, ttl)
  redis.call('PEXPIRE', l.hash, ttl)
  redis.call('SET', l.key, format('s %.0f %s %s', n + cost, field, l.windowText), 'PX', ttl)
  return slot
end

-- frees returns how long it takes until `need` has left the sliding window.
local function frees(l, need, now)
  local from = 0
  while true do
    local ends = redis.call('LRANGE', l.list, from, from + 31)
    if not ends[1] then
      return l.window
    end
    local costs = redis.call('HMGET', l.hash, unpack(ends))
    for i = 1, #ends do
      need = need - tonumber(costs[i] or 0)
      if need <= 0 then
        return tonumber(ends[i]) + l.window - now
      end
    end
    from = from + 32
  end
end

-- ARGS is how many arguments a limit has: kind (b, p, l, f or s), amount, and
--   b  burst, unit, drain, how many lows are kept
--   p  as b, with what its caller holds of the bucket, see lend() in admit.lua: the hash of all holders is the key behind its own, and behind the
--      other arguments stand LEASE more: holder, what it holds, what it would like, the least that helps it, what all may hold, for how many ms,
--      what it gives back, when that was taken
--   l  burst, unit, drain, the longest delay in µs
--   f  limit, window in µs
--   s  limit, window in µs, slot in µs; its list and hash are the two keys behind its own
-- then, for adjust.lua, the time of the admission.
local ARGS, LEASE = 7, 8

-- limits reads the limits from the arguments behind `a` and the keys behind `k`.
local function limits(a, k)
  local all = {}
  while ARGV[a + 1] do
    local kind = ARGV[a + 1]
    local l = { kind = kind, key = KEYS[k + 1], amount = tonumber(ARGV[a + 2]), limit = tonumber(ARGV[a + 3]), at = tonumber(ARGV[a + 7]) }
    if kind == 'b' or kind == 'p' or kind == 'l' then
      l.unitText, l.drainText = ARGV[a + 4], ARGV[a + 5]
      l.unit, l.drain, l.lows, l.keep = tonumber(l.unitText), tonumber(l.drainText), {}, 0
      if kind == 'l' then
        l.delay = tonumber(ARGV[a + 6])
      else
        l.keep = tonumber(ARGV[a + 6])
      end
    else
      l.windowText = ARGV[a + 4]
      l.window = tonumber(l.windowText)
      if kind == 's' then
        l.slot, l.list, l.hash = tonumber(ARGV[a + 5]), KEYS[k + 2], KEYS[k + 3]
        k = k + 2
      end
    end
    a, k = a + ARGS, k + 1
    if kind == 'p' then
      l.kind, l.holders, l.holder = 'b', KEYS[k + 1], ARGV[a + 1]
      l.held, l.want, l.least, l.most = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
      l.ttl, l.back, l.backAt = tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8])
      a, k = a + LEASE, k + 1
    end
    all[#all + 1] = l
  end
  return all
end
