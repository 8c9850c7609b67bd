"""Calls of one function with one order key run one at a time, as they were accepted: the rule, in Lua.

A line is a list of invocations. Its head runs, or waits for its time, as any call does; the others stand in `later`
with a moment that never comes, FAR beyond their own. Whatever ends the head (the invoker's complete.lua, the gateway's
cancel.lua) lets the next one go in the same step, so nobody has to watch.
"""

from __future__ import annotations

import hashlib

FAR = 10**15  # ms: added to a moment that must not come yet; sums stay exact in a sorted set's doubles

RULE = f"""
local FAR = {FAR}

-- Stand in line; the moment to wait for in `later`, or 0: it is the head, and due now.
local function stand(line, invocation, due)
    local place = redis.call('RPUSH', line, invocation)
    return place == 1 and due or due + FAR
end

-- Leave the line; the invocation behind, if that is its head now, and its own moment.
local function leave(line, invocation, later)
    local head = redis.call('LINDEX', line, 0)
    redis.call('LREM', line, head == invocation and 1 or -1, invocation) -- of a long line from the nearer end
    local following = head == invocation and redis.call('LINDEX', line, 0)
    if not following then return nil end
    return following, tonumber(redis.call('ZSCORE', later, following) or FAR) - FAR
end
""".encode()


def digest(key: str) -> str:
    """What stands for an order key in names of Redis keys; "" for none."""
    return hashlib.sha256(key.encode()).hexdigest()[:32] if key else ""
