"""The Lua scripts that the gateway runs in Redis: each is one atomic step. Only store.py runs them.

Each script's header documents its keys, with their types, and its arguments.
"""

from __future__ import annotations

SEND = """
-- Puts a batch of synchronous calls on their invokers' streams.
-- KEYS: calls:{invoker} (stream), one per call    ARGV: Call, one per call
for i = 1, #KEYS do redis.call('XADD', KEYS[i], '*', 'c', ARGV[i]) end
return #KEYS
"""

LIVE = """
-- What every function's live revision and its aliases are: tenant, name, number, aliases, tenant, name, …
-- KEYS[1]: tenants (set)    ARGV[1], ARGV[2]: what stands before a tenant in functions:{tenant} (set)
--                                             and in function:{tenant}:{name} (hash)
local found = {}
for _, tenant in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  for _, name in ipairs(redis.call('SMEMBERS', ARGV[1] .. tenant)) do
    local function_key = ARGV[2] .. tenant .. ':' .. name
    local live = redis.call('HGET', function_key, 'live')
    if live then
      found[#found + 1] = tenant
      found[#found + 1] = name
      found[#found + 1] = live
      found[#found + 1] = redis.call('HGET', function_key, 'aliases') or ''
    end
  end
end
return found
"""

LIVE_REVISION = """
-- Of one function: its packed live Revision, its aliases, and the packed Revisions that they name; or nil.
-- KEYS[1]: function:{tenant}:{name} (hash)
local live = redis.call('HGET', KEYS[1], 'live')
local packed = live and redis.call('HGET', KEYS[1], 'rev:' .. live)
if not packed then return nil end
local aliases = redis.call('HGET', KEYS[1], 'aliases') or ''
local found = {packed, aliases}
for number in string.gmatch(aliases, '(%d+):') do
  local named = redis.call('HGET', KEYS[1], 'rev:' .. number)
  if named then found[#found + 1] = named end
end
return found
"""

PUT_SOURCE = """
-- Keeps an uploaded source archive, if there is room for it beside the others that are still kept.
-- KEYS[1]: source:{tenant}:{digest} (string)  [2]: sources (hash: key of a source → its bytes)
-- ARGV[1]: the archive  [2]: for how many seconds  [3]: how many bytes all may have  [4]: how many there may be
-- returns 1, or 0 when there is no room
local bytes, count = #ARGV[1], 1
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  if redis.call('EXISTS', all[i]) == 0 then
    redis.call('HDEL', KEYS[2], all[i])
  elseif all[i] ~= KEYS[1] then
    bytes, count = bytes + tonumber(all[i + 1]), count + 1
  end
end
if bytes > tonumber(ARGV[3]) or count > tonumber(ARGV[4]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('HSET', KEYS[2], KEYS[1], #ARGV[1])
return 1
"""

REMOVE = """
-- Removes a function: its revisions, its logs and its name. "latest" stays in the hash, so that a function of the
-- same name never gets a revision number twice: bills, logs and warm instances tell them apart by it. "removed" says
-- up to which one they were another function's: a call that still runs may write its log after this.
-- KEYS[1]: function:{tenant}:{name} (hash)  [2]: functions:{tenant} (set)  [3]: tenants (set)  [4]: logs (stream)
--       [5]: their size (string)  [6]: changes (stream)
-- ARGV[1]: name  [2]: tenant  [3]: the channel that tells of changes  [4]: about how many the stream keeps
-- returns 1, or 0 when there is no such function
if not redis.call('HGET', KEYS[1], 'live') then return 0 end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field ~= 'latest' then redis.call('HDEL', KEYS[1], field) end
end
redis.call('SREM', KEYS[2], ARGV[1])
if redis.call('SCARD', KEYS[2]) == 0 then redis.call('SREM', KEYS[3], ARGV[2]) end
redis.call('HSET', KEYS[1], 'removed', redis.call('HGET', KEYS[1], 'latest'))
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('PUBLISH', ARGV[3], ARGV[2] .. ':' .. ARGV[1])
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[4], '*', 'f', ARGV[2] .. ':' .. ARGV[1])
return 1
"""

SET_LIVE = """
-- Puts another revision in service. "latest" stays: the next deploy gets a number that was never given.
-- KEYS[1]: function:{tenant}:{name} (hash)  [2]: changes (stream)
-- ARGV[1]: live as it was read  [2]: number of the new one  [3]: name  [4]: tenant  [5]: the channel of changes
--      [6]: about how many changes the stream keeps
-- returns 1, or 0 when either is not there any more
if redis.call('HGET', KEYS[1], 'live') ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'rev:' .. ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'live', ARGV[2])
redis.call('PUBLISH', ARGV[5], ARGV[4] .. ':' .. ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', 'f', ARGV[4] .. ':' .. ARGV[3])
return 1
"""

SET_ALIASES = """
-- Changes a function's aliases.
-- KEYS[1]: function:{tenant}:{name} (hash)  [2]: changes (stream)
-- ARGV[1]: aliases as they were read  [2]: as they shall be  [3]: name  [4]: tenant
--     [5]: about how many changes the stream keeps  [6] …: revisions that must be there
-- returns 0; -1: others changed them meanwhile; -2: there is no such function; or the revision that is not there
if not redis.call('HGET', KEYS[1], 'live') then return -2 end
if (redis.call('HGET', KEYS[1], 'aliases') or '') ~= ARGV[1] then return -1 end
for i = 6, #ARGV do
  if redis.call('HEXISTS', KEYS[1], 'rev:' .. ARGV[i]) == 0 then return tonumber(ARGV[i]) end
end
redis.call('HSET', KEYS[1], 'aliases', ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'f', ARGV[4] .. ':' .. ARGV[3])
return 0
"""

TAKE = """
-- Lets one request in at a rate, or says in how many microseconds it may come (GCRA).
-- KEYS[1]: rate:{tenant}:{function}:{trigger}:{client} (string: a time in µs)
-- ARGV[1]: µs from one request to the next  [2]: µs that may be used up at once
-- returns 0, or how long to wait
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local next = math.max(tonumber(redis.call('GET', KEYS[1])) or now, now) + ARGV[1]
local wait = next - ARGV[2] - now
if wait > 0 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000))
return 0
"""
