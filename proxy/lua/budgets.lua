-- What budgets hold, as fields of the hash of a workspace's state. This text stands in front of the scripts that touch them.
--   epoch  which life of the budgets this is. None: the log has not been read into this hash, and nothing is admitted by a budget
--   who    the server (master_replid) that it was installed on. Another one may be a replica that lacked the last grants when it took over: there
--          nothing is admitted by a budget either
--   op     the number of the last grant in this epoch
--   n      how many reservations stand here
--   at     the offset in the topic of costs up to which ends are applied
--   b…     a budget's balance in one period (its name ends with the period's start): "posted reserved confirmed", in nano-USD; confirmed is
--          the part of posted that the log has shown. No sum passes 2^53: a limit is at most 4 million USD, one call at most 100,000
--   q…     what leases hold of a balance; none where they hold nothing
--   e…     a reservation, by its id: "o 0" while it is open, "l 0" one that is a lease, "s" and its cost from its end until the log has shown
--          that, then its producer, then pairs of a balance and an amount
--   f…     a producer that is fenced
-- Everything here is as a prefix of the log says, and what was granted and settled since then. Nothing is released by time.
local HOLD = 7

-- server returns the identity of the server that runs this; empty where the store has none.
local function server()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
end

-- holds reads the budgets of a request from the arguments behind `a`, and picks each one's period by this clock. Returns nil where
-- the caller knows no period of now.
local function holds(a, count, now)
  local all = {}
  for i = 1, count do
    local first, second, over = tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7])
    local start = now >= second and ARGV[a + 6] or ARGV[a + 5]
    if now < first or now >= over then
      return nil
    end
    all[i] = {
      field = ARGV[a + 1] .. start, start = tonumber(start), limit = tonumber(ARGV[a + 2]), amount = tonumber(ARGV[a + 3]), hard = ARGV[a + 4] == '1',
    }
    a = a + HOLD
  end
  return all
end

-- balance reads a balance.
local function balance(v)
  if not v then
    return 0, 0, 0
  end
  local posted, reserved, confirmed = string.match(v, '^(%-?%d+) (%-?%d+) (%-?%d+)$')
  return tonumber(posted), tonumber(reserved), tonumber(confirmed)
end

local function balanceText(posted, reserved, confirmed)
  return string.format('%.0f %.0f %.0f', posted, reserved, confirmed)
end

-- reservation reads an entry: its state, its cost, its producer and its pairs of a balance and an amount.
local function reservation(v)
  local words = {}
  for word in string.gmatch(v, '%S+') do
    words[#words + 1] = word
  end
  local pairs = {}
  for i = 4, #words, 2 do
    pairs[#pairs + 1] = { words[i], tonumber(words[i + 1]) }
  end
  return words[1], tonumber(words[2]), words[3], pairs
end

-- moved returns what an entry's balances become when their posted and reserved change, as arguments of HSET.
local function moved(key, pairs, posted, reserved)
  local fields, set = {}, {}
  for i = 1, #pairs do
    fields[i] = pairs[i][1]
  end
  local values = #fields > 0 and redis.call('HMGET', key, unpack(fields)) or {}
  for i = 1, #fields do
    local p, r, c = balance(values[i] or nil)
    set[2 * i - 1], set[2 * i] = fields[i], balanceText(p + posted, r + reserved * pairs[i][2], c)
  end
  return set
end

-- lend notes what a lease holds more of its balances, by a sign: 1 all that the pairs say, -1 that they are given up.
local function lend(key, pairs, sign)
  for i = 1, #pairs do
    local by = sign * pairs[i][2]
    if by ~= 0 and redis.call('HINCRBY', key, 'q' .. pairs[i][1], string.format('%.0f', by)) == 0 then
      redis.call('HDEL', key, 'q' .. pairs[i][1])
    end
  end
end

-- settle ends an open reservation at its cost; it stays until the log shows that end, which is never counted twice for it.
local function settle(key, id, cost)
  local v = redis.call('HGET', key, 'e' .. id)
  if v and string.sub(v, 1, 1) == 'o' then
    local _, _, _, pairs = reservation(v)
    redis.call('HSET', key, 'e' .. id, string.format('s %.0f', cost) .. string.sub(v, 4), unpack(moved(key, pairs, cost, -1)))
  end
end

-- release undoes a grant whose request was never opened in the log.
local function release(key, id)
  local v = redis.call('HGET', key, 'e' .. id)
  if v and string.sub(v, 1, 1) ~= 's' then
    local kind, _, _, pairs = reservation(v)
    local set = moved(key, pairs, 0, -1)
    if #set > 0 then
      redis.call('HSET', key, unpack(set))
    end
    if kind == 'l' then
      lend(key, pairs, -1)
    end
    redis.call('HDEL', key, 'e' .. id)
    redis.call('HINCRBY', key, 'n', -1)
  end
end
