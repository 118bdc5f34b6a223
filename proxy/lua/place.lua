-- Says where the budgets of a workspace stand.
-- KEYS[1]  state of the workspace, see budgets.lua, which stands in front of this
-- returns  {1, now, epoch, at}: the epoch by which this server may grant, 0: none; the offset up to which the log is applied, -1: none
local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'epoch', 'at', 'who')
local epoch = state[3] == server() and tonumber(state[1] or 0) or 0
return { 1, tonumber(time[1]) * 1000000 + tonumber(time[2]), epoch, tonumber(state[2] or -1) }
