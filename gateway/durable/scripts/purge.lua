-- Throw dead letters away.
--
-- KEYS[1]  tally:{tenant} (hash of counters)
-- KEYS[2]  dead:{tenant} (sorted set)  [3] dead:letters:{tenant} (hash)  [4] dead:calls:{tenant} (hash)
-- ARGV     invocations
--
-- Returns how many were there.

local purged = 0
for _, invocation in ipairs(ARGV) do
    if redis.call('ZREM', KEYS[2], invocation) == 1 then
        redis.call('HINCRBY', KEYS[1], 'dead_bytes', -redis.call('HSTRLEN', KEYS[4], invocation))
        redis.call('HDEL', KEYS[3], invocation)
        redis.call('HDEL', KEYS[4], invocation)
        purged = purged + 1
    end
end
if purged > 0 then redis.call('HINCRBY', KEYS[1], 'purged', purged) end
return purged
