-- Take a queued call back.
--
-- KEYS[1]  later             sorted set invocation → moment
-- KEYS[2]  later:calls       hash invocation → Call
-- KEYS[3]  backlog:{tenant}  hash invocation → "stream entry" or "later"
-- KEYS[4]  tally:{tenant}    hash of counters
-- KEYS[5]  invocation:{id}   string InvocationRecord
-- KEYS[6]  the stream that the backlog names, or KEYS[1]    stream {c: Call}
-- KEYS[7]  line:{…}          list of invocations with its order key; KEYS[1] without one
-- ARGV[1]  invocation  [2] where it is, as the backlog said  [3] its entry  [4] the consumer group
-- ARGV[5]  bytes of its payload  [6] InvocationRecord, cancelled  [7] seconds that it is kept
--
-- Returns 1: it is cancelled; 0: an invoker has it; -1: it is not there any more, or somewhere else now.
-- `leave` is contract/lines.py's.

local invocation, where, entry = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', KEYS[3], invocation) ~= where then return -1 end
if where == 'later' then
    redis.call('ZREM', KEYS[1], invocation)
    redis.call('HDEL', KEYS[2], invocation)
else
    if #redis.call('XPENDING', KEYS[6], ARGV[4], entry, entry, 1) == 1 then return 0 end
    if redis.call('XDEL', KEYS[6], entry) == 0 then return -1 end
end
if KEYS[7] ~= KEYS[1] then
    local following, due = leave(KEYS[7], invocation, KEYS[1])
    if following then redis.call('ZADD', KEYS[1], math.max(due, 1), following) end
end
redis.call('HDEL', KEYS[3], invocation)
redis.call('HINCRBY', KEYS[4], 'bytes', -ARGV[5])
redis.call('HINCRBY', KEYS[4], 'cancelled', 1)
redis.call('SET', KEYS[5], ARGV[6], 'EX', ARGV[7])
return 1
