-- Put calls that were due on invokers' streams. Only who takes an invocation out of `later` moves it, so any number of
-- gateways may try at once.
--
-- KEYS[1]  later             sorted set invocation → moment
-- KEYS[2]  later:calls       hash invocation → Call
-- then three per call:
--   calls:{invoker}          stream {c: Call}
--   invocation:{id}          string InvocationRecord
--   backlog:{tenant}         hash invocation → where it is
-- ARGV per call: invocation, InvocationRecord, Call ("": as it waited)
--
-- Returns per call whether it was moved: 1, or 0.

local k, results = 3, {}
for a = 1, #ARGV, 3 do
    local stream, invocation, moved = KEYS[k], ARGV[a], 0
    if redis.call('ZREM', KEYS[1], invocation) == 1 then
        local call = ARGV[a + 2]
        if call == '' then call = redis.call('HGET', KEYS[2], invocation) end
        redis.call('HDEL', KEYS[2], invocation)
        redis.call('HSET', KEYS[k + 2], invocation, stream .. ' ' .. redis.call('XADD', stream, '*', 'c', call))
        redis.call('SET', KEYS[k + 1], ARGV[a + 1], 'XX', 'KEEPTTL')
        moved = 1
    end
    results[#results + 1] = moved
    k = k + 3
end
return results
