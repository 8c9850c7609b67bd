-- Give dead calls another life: each leaves the dead letters and waits for its next attempt, due at once; one with an
-- order key at the end of its line. `exhume` is contract/burial.py's, `stand` contract/lines.py's.
--
-- KEYS[1]  later             sorted set invocation → moment
-- KEYS[2]  later:calls       hash invocation → Call
-- KEYS[3]  backlog:{tenant}  hash invocation → where it is
-- KEYS[4]  tally:{tenant}    hash of counters
-- KEYS[5]  dead:{tenant} (sorted set)  [6] dead:letters:{tenant} (hash)  [7] dead:calls:{tenant} (hash)
-- then two per call: invocation:{id} (string InvocationRecord), line:{…} (list; KEYS[1] without an order key)
-- ARGV per call: invocation, Call, InvocationRecord, keep (seconds, of the record), moment, bytes (of its payload)
--
-- Returns how many were replayed; those that are dead no more stay as they are.

local k, replayed = 8, 0
for a = 1, #ARGV, 6 do
    local invocation = ARGV[a]
    if exhume(KEYS[4], KEYS[5], KEYS[6], KEYS[7], invocation) then
        local moment = tonumber(ARGV[a + 4])
        if KEYS[k + 1] ~= KEYS[1] then moment = stand(KEYS[k + 1], invocation, moment) end
        redis.call('ZADD', KEYS[1], moment, invocation)
        redis.call('HSET', KEYS[2], invocation, ARGV[a + 1])
        redis.call('HSET', KEYS[3], invocation, 'later')
        redis.call('HINCRBY', KEYS[4], 'replayed', 1)
        redis.call('HINCRBY', KEYS[4], 'bytes', ARGV[a + 5])
        redis.call('SET', KEYS[k], ARGV[a + 2], 'EX', ARGV[a + 3])
        replayed = replayed + 1
    end
    k = k + 2
end
return replayed
