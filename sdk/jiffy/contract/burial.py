"""How a dead letter is kept, and how it leaves again, in Lua: the one rule of calls and of deliveries, for the scripts
that say so (the invoker's complete.lua; the gateway's settle, replay, redeliver, purge). What it counts:
docs/guarantees.md.
"""

from __future__ import annotations

RULE = b"""
-- Keys: tally (hash of counters), dead (sorted set id -> moment), letters (hash id -> DeadLetter), dead_calls (hash id
-- -> Call or Delivery).

-- Takes a letter out; the bytes that the others' calls have then, or false when there is none.
local function exhume(tally, dead, letters, dead_calls, id)
    if redis.call('ZREM', dead, id) == 0 then return false end
    local bytes = redis.call('HINCRBY', tally, 'dead_bytes', -redis.call('HSTRLEN', dead_calls, id))
    redis.call('HDEL', letters, id)
    redis.call('HDEL', dead_calls, id)
    return bytes
end

-- `now` in ms; `most` letters of a tenant, `most_bytes` of their calls, kept for `keep` ms.
local function bury(tally, dead, letters, dead_calls, id, now, call, letter, most, most_bytes, keep)
    redis.call('ZADD', dead, now, id)
    redis.call('HSET', letters, id, letter)
    redis.call('HSET', dead_calls, id, call)
    local bytes = redis.call('HINCRBY', tally, 'dead_bytes', #call)
    local over = redis.call('ZCARD', dead) - most
    while true do -- the oldest make way
        local oldest = redis.call('ZRANGE', dead, 0, 0, 'WITHSCORES')
        if over <= 0 and bytes <= most_bytes and tonumber(oldest[2]) > now - keep then return end
        bytes = exhume(tally, dead, letters, dead_calls, oldest[1])
        redis.call('HINCRBY', tally, 'dropped', 1)
        over = over - 1
        if oldest[1] == id then return end
    end
end
"""
