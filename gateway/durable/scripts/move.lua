-- Put calls that were due on invokers' streams. Only who takes an invocation out of `later` moves it, so any number of
-- gateways may try at once.
--
-- KEYS[1]  later             sorted set invocation → moment
-- KEYS[2]  later:calls       hash invocation → Call
-- then three per call:
--   calls:{invoker}          stream {c: Call}
--   invocation:{id}          string InvocationRecord
--   backlog:{tenant}         hash invocation → where it is
-- ARGV per call: invocation, InvocationRecord
--
-- Returns how many were moved.

local k, moved = 3, 0
for a = 1, #ARGV, 2 do
    local stream, invocation = KEYS[k], ARGV[a]
    if redis.call('ZREM', KEYS[1], invocation) == 1 then
        local call = redis.call('HGET', KEYS[2], invocation)
        redis.call('HDEL', KEYS[2], invocation)
        redis.call('HSET', KEYS[k + 2], invocation, stream .. ' ' .. redis.call('XADD', stream, '*', 'c', call))
        redis.call('SET', KEYS[k + 1], ARGV[a + 1], 'XX', 'KEEPTTL')
        moved = moved + 1
    end
    k = k + 3
end
return moved
