-- Complete a batch of attempts: each one is answered, acknowledged, metered and logged together, or not at all.
--
-- Fenced: only the attempt whose XACK removes its entry from the group's pending list is written. One that was
-- completed before (a resend after a lost connection) or by somebody else changes nothing.
--
-- KEYS[1]  calls:{invoker}   stream {c: Call}     where the attempts came from
-- KEYS[2]  usage             stream {u: Usage}
-- then three per item:
--   answers:{gateway}        list of Answer       "" when nobody waits
--   logs:{tenant}:{function} stream {l: LogEntry}
--   invocation:{id}          string InvocationRecord, "" for a synchronous call
-- ARGV[1]  the consumer group
-- ARGV[2]  seconds that answers are kept
-- ARGV[3]  seconds that records are kept
-- ARGV[4]  about how many entries a function's log keeps
-- then per item:
--   id       the entry's id in the calls stream
--   note     "1": the attempt still runs; only its log entries and its record are written, if it is still ours
--   answer   Answer
--   usage    Usage
--   record   InvocationRecord
--   again    Call: the next attempt, put at the end of the stream; "" when this was the last
--   n        how many log entries follow
--   entry…   LogEntry
--
-- Returns the number of items that were written.

local calls, usage_key = KEYS[1], KEYS[2]
local group, answers_keep, record_keep, log_length = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local k, a, written = 3, 5, 0
local touched = {}

local function still_ours(id)
    return #redis.call('XPENDING', calls, group, id, id, 1) == 1
end

while a <= #ARGV do
    local answers, logs, record_key = KEYS[k], KEYS[k + 1], KEYS[k + 2]
    local id, note = ARGV[a], ARGV[a + 1] == '1'
    local record, again, n = ARGV[a + 4], ARGV[a + 5], tonumber(ARGV[a + 6])
    local ours
    if note then ours = still_ours(id) else ours = redis.call('XACK', calls, group, id) == 1 end
    if ours then
        written = written + 1
        if not note then
            redis.call('XDEL', calls, id)
            redis.call('XADD', usage_key, '*', 'u', ARGV[a + 3])
            if answers ~= '' then
                redis.call('RPUSH', answers, ARGV[a + 2])
                touched[answers] = true
            end
            if again ~= '' then redis.call('XADD', calls, '*', 'c', again) end
        end
        for i = a + 7, a + 6 + n do
            redis.call('XADD', logs, 'MAXLEN', '~', log_length, '*', 'l', ARGV[i])
        end
        if record_key ~= '' then redis.call('SET', record_key, record, 'EX', record_keep) end
    end
    k, a = k + 3, a + 7 + n
end
for answers in pairs(touched) do redis.call('EXPIRE', answers, answers_keep) end
return written
