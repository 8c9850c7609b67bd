"""How a dead letter is kept, in Lua: the one rule of calls (the invoker's complete.lua) and of deliveries (the
gateway's settle.lua). What it counts: docs/guarantees.md.
"""

from __future__ import annotations

_BURY = b"""
-- Keys: tally (hash of counters), dead (sorted set id -> moment), letters (hash id -> DeadLetter), dead_calls (hash id
-- -> Call or Delivery). `now` in ms; `most` letters of a tenant, `most_bytes` of their calls, kept for `keep` ms.
local function bury(tally, dead, letters, dead_calls, id, now, call, letter, most, most_bytes, keep)
    redis.call('ZADD', dead, now, id)
    redis.call('HSET', letters, id, letter)
    redis.call('HSET', dead_calls, id, call)
    local bytes = redis.call('HINCRBY', tally, 'dead_bytes', #call)
    local over = redis.call('ZCARD', dead) - most
    while true do -- the oldest make way
        local oldest = redis.call('ZRANGE', dead, 0, 0, 'WITHSCORES')
        if over <= 0 and bytes <= most_bytes and tonumber(oldest[2]) > now - keep then return end
        bytes = redis.call('HINCRBY', tally, 'dead_bytes', -redis.call('HSTRLEN', dead_calls, oldest[1]))
        redis.call('ZREM', dead, oldest[1])
        redis.call('HDEL', letters, oldest[1])
        redis.call('HDEL', dead_calls, oldest[1])
        redis.call('HINCRBY', tally, 'dropped', 1)
        over = over - 1
        if oldest[1] == id then return end
    end
end
"""


def able(script: bytes) -> bytes:
    """A script that begins with its flags, with `bury` in it."""
    flags, _, rest = script.partition(b"\n")
    return flags + _BURY + rest
