-- Accept a batch of asynchronous calls: each is in the backlog, counted, has a record, and stands on an invoker's
-- stream or waits for its time, or nothing of it is there.
--
-- KEYS[1]  later             sorted set invocation → moment
-- KEYS[2]  later:calls       hash invocation → Call
-- then four per call:
--   calls:{invoker}          stream {c: Call}
--   invocation:{id}          string InvocationRecord
--   backlog:{tenant}         hash invocation → where it is
--   tally:{tenant}           hash of counters
-- ARGV[1]  how many calls a tenant's backlog may have, [2] the bytes of their payloads
-- then per call: invocation, Call, InvocationRecord, keep (seconds, of the record), due ("0": now), bytes (of its payload)
--
-- Returns one number per call: 1 accepted, 0 the backlog is full.

local calls_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2])
local k, results = 3, {}
for a = 3, #ARGV, 6 do
    local stream, record, backlog, tally = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
    local invocation, call, due = ARGV[a], ARGV[a + 1], ARGV[a + 4]
    local held = tonumber(redis.call('HGET', tally, 'bytes') or 0)
    if redis.call('HLEN', backlog) >= calls_max or held + ARGV[a + 5] > bytes_max then
        results[#results + 1] = 0
    else
        redis.call('SET', record, ARGV[a + 2], 'EX', ARGV[a + 3])
        if due == '0' then
            redis.call('HSET', backlog, invocation, stream .. ' ' .. redis.call('XADD', stream, '*', 'c', call))
        else
            redis.call('ZADD', KEYS[1], due, invocation)
            redis.call('HSET', KEYS[2], invocation, call)
            redis.call('HSET', backlog, invocation, 'later')
        end
        redis.call('HINCRBY', tally, 'accepted', 1)
        redis.call('HINCRBY', tally, 'bytes', ARGV[a + 5])
        results[#results + 1] = 1
    end
    k = k + 4
end
return results
