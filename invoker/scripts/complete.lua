#!lua flags=allow-oom
-- Complete a batch of attempts: each one is answered, acknowledged, metered, logged and, if it is asynchronous, given
-- its result, its next attempt or its place among the dead letters, all together or not at all.
--
-- Fenced: only the attempt whose XACK removes its entry from the group's pending list is written. One that was
-- completed before (a resend after a lost connection) or by somebody else changes nothing. Run even when the queue is
-- full: what it takes away makes room.
--
-- KEYS[1]  calls:{invoker}   stream {c: Call}     where the attempts came from
-- KEYS[2]  usage             stream {u: Usage}
-- KEYS[3]  metered           string, a counter    usage records ever written
-- KEYS[4]  later             sorted set invocation → moment
-- KEYS[5]  later:calls       hash invocation → Call
-- KEYS[6]  deliveries        sorted set delivery → moment
-- KEYS[7]  deliveries:items  hash delivery → Delivery
-- then three per item:
--   answers:{gateway}        list of Answer, Piece    KEYS[1] when nobody waits
--   logs:{tenant}:{function} stream {l: LogEntry}
--   invocation:{id}          string InvocationRecord, KEYS[1] for a synchronous call that has none
-- one more where a record has ended and is large:
--   results:{tenant}         sorted set "key bytes" → when that record expires, in ms
-- and six more for the end of an asynchronous one:
--   backlog:{tenant}         hash invocation → where it is
--   tally:{tenant}           hash of counters
--   dead:{tenant}            sorted set invocation → moment
--   dead:letters:{tenant}    hash invocation → DeadLetter
--   dead:calls:{tenant}      hash invocation → Call
--   line:{…}                 list of invocations, KEYS[1] without an order key
-- and those that an attempt under budgets and quotas spends of, and where it has its places:
--   spending:{…}             hash of counters
--   quota:places:{…}         hash of how many run or wait
-- ARGV[1]  the consumer group
-- ARGV[2]  seconds that answers are kept
-- ARGV[3]  about how many entries a function's log keeps
-- ARGV[4]  how many dead letters a tenant may have, [5] the bytes of their calls, [6] ms that they are kept
-- ARGV[7]  seconds that the records of synchronous calls are kept
-- ARGV[8]  seconds that a function's log is kept after its last entry, [9] the bytes that it may take
-- ARGV[10] seconds that counters of spending are kept
-- ARGV[11] from how many bytes on a record is large, [12] the bytes of a tenant's large ones that are kept
-- then per item:
--   id       the entry's id in the calls stream
--   kind     "1": the attempt still runs; its log entries, its record and a piece of its answer, if it is still ours
--            "2": it has ended, and is under budgets or quotas; "0": it has ended, and is not
--   answer   Answer; of one that still runs, a Piece
--   usage    Usage; "" when the entry was no call
--   record   InvocationRecord; "" at the end of a synchronous call that has one: it never began, and is as if it had
--            not been sent
--   state    "" or, at the end of an asynchronous attempt, what its invocation is now: "done", "queued" or "dead"
--   n        how many log entries follow
--   entry…   LogEntry
-- and, with a state:
--   invocation
--   moment   queued: when it is due; dead: now
--   call     queued: the next attempt; dead: the last one
--   letter   dead: DeadLetter
--   bytes    of its payload
--   keep     seconds that its record is kept
--   id       of what its destination is told; "" when it has none
--   delivery Delivery
--   alike    a call behind it in its line may come to this invoker if its Call holds these bytes; "": none may
-- and, of kind "2":
--   n        how many counters it spends of
--   cost     how much
--   returned what was held for it until now, negative, and the field where it and its places were held
--   places   how many it had
--
-- Returns the number of items that were written. `bury` is contract/burial.py's, `leave` contract/lines.py's.

local calls, usage_key, later, later_calls = KEYS[1], KEYS[2], KEYS[4], KEYS[5]
local group, answers_keep, log_length = ARGV[1], ARGV[2], ARGV[3]
local dead_max, dead_max_bytes, dead_keep = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local sync_keep, log_keep, log_max_bytes = ARGV[7], ARGV[8], tonumber(ARGV[9])
local large, results_max_bytes = tonumber(ARGV[11]), tonumber(ARGV[12])
local k, a, items, written, metered = 8, 13, 0, 0, 0
local touched, printed = {}, {}

local function still_ours(id)
    return #redis.call('XPENDING', calls, group, id, id, 1) == 1
end

-- The call behind in its line comes to this invoker, where its function is warm, if it is `alike`; else it waits in
-- `later` for its time, or for a gateway to place it.
local function let_go(line, invocation, backlog, alike)
    local following, due = leave(line, invocation, later)
    if not following then return end
    local call = redis.call('HGET', later_calls, following)
    if due > 0 or not call or alike == '' or not call:find(alike, 1, true) then
        redis.call('ZADD', later, math.max(due, 1), following)
        return
    end
    redis.call('ZREM', later, following)
    redis.call('HDEL', later_calls, following)
    redis.call('HSET', backlog, following, calls .. ' ' .. redis.call('XADD', calls, '*', 'c', call))
end

local function follow(k, a, state)
    local backlog, tally = KEYS[k], KEYS[k + 1]
    local invocation, moment, call = ARGV[a], tonumber(ARGV[a + 1]), ARGV[a + 2]
    if state == 'queued' then
        redis.call('ZADD', later, moment, invocation)
        redis.call('HSET', later_calls, invocation, call)
        redis.call('HSET', backlog, invocation, 'later')
        redis.call('HINCRBY', tally, 'retried', 1)
        return
    end
    redis.call('HDEL', backlog, invocation)
    redis.call('HINCRBY', tally, 'bytes', -ARGV[a + 4])
    redis.call('HINCRBY', tally, state, 1)
    if state == 'dead' then
        bury(tally, KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], invocation, moment, call, ARGV[a + 3], dead_max, dead_max_bytes, dead_keep)
    end
    if KEYS[k + 5] ~= calls then let_go(KEYS[k + 5], invocation, backlog, ARGV[a + 8]) end
    if ARGV[a + 6] ~= '' then
        redis.call('ZADD', KEYS[6], moment, ARGV[a + 6])
        redis.call('HSET', KEYS[7], ARGV[a + 6], ARGV[a + 7])
        redis.call('HINCRBY', tally, 'destined', 1)
        redis.call('HINCRBY', tally, 'bytes', #ARGV[a + 7])
    end
end

-- A counter that would pass the largest integer stays: it is past any budget.
local function spend(counters, cost, returned, slot)
    redis.pcall('HINCRBY', counters, 'spent', cost)
    if returned ~= '0' then redis.call('HINCRBY', counters, slot, returned) end
    redis.call('EXPIRE', counters, ARGV[10])
end

-- A log of short entries is bounded by their number. Of longer ones the bytes are counted, and never counted down:
-- when they are too many, it is time to look how much there really is, and to let the older half go.
local LONG = 1024
local function bytes_of(logs)
    local bytes = redis.pcall('MEMORY', 'USAGE', logs, 'SAMPLES', 0)
    return type(bytes) == 'number' and bytes or log_max_bytes -- where nobody may ask, halving is a good guess
end

local function bound(logs, bytes)
    redis.call('EXPIRE', logs, log_keep)
    if bytes < LONG then return end
    local size = logs .. ':size'
    if redis.call('INCRBY', size, bytes) > log_max_bytes then
        local really = bytes_of(logs)
        if really > log_max_bytes / 2 then
            local keep = math.floor(redis.call('XLEN', logs) * log_max_bytes / 2 / really)
            redis.call('XTRIM', logs, 'MAXLEN', keep)
            really = math.min(bytes_of(logs), log_max_bytes / 2)
        end
        redis.call('SET', size, math.floor(really))
    end
    redis.call('EXPIRE', size, log_keep)
end

-- Large records are counted by tenant: expired ones no more, and when they are too many, those go that expire first.
local function keep(results, record_key, bytes, keep_s)
    local time, sum = redis.call('TIME'), results .. ':bytes'
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local function forget(member)
        local key, size = member:match('^(.*) (%d+)$')
        redis.call('ZREM', results, member)
        return key, redis.call('DECRBY', sum, size)
    end
    for _, member in ipairs(redis.call('ZRANGE', results, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do forget(member) end
    local added = redis.call('ZADD', results, now + keep_s * 1000, record_key .. ' ' .. bytes)
    local total = redis.call('INCRBY', sum, added * bytes)
    while total > results_max_bytes do
        local first = redis.call('ZRANGE', results, 0, 0)[1]
        if not first then break end
        local key
        key, total = forget(first)
        redis.call('DEL', key)
    end
end

while a <= #ARGV do
    local answers, logs, record_key = KEYS[k], KEYS[k + 1], KEYS[k + 2]
    local id, kind = ARGV[a], ARGV[a + 1]
    local note = kind == '1'
    local record, state, n = ARGV[a + 4], ARGV[a + 5], tonumber(ARGV[a + 6])
    local more = a + 7 + n
    local counted = (not note and #record >= large) and 1 or 0
    local ours
    items = items + 1
    if note then ours = still_ours(id) else ours = redis.call('XACK', calls, group, id) == 1 end
    if ours then
        written = written + 1
        if not note then
            redis.call('XDEL', calls, id)
            if ARGV[a + 3] ~= '' then
                redis.call('XADD', usage_key, '*', 'u', ARGV[a + 3])
                metered = metered + 1
            end
        end
        if answers ~= calls then
            redis.call('RPUSH', answers, ARGV[a + 2])
            touched[answers] = true
        end
        for i = a + 7, more - 1 do
            redis.call('XADD', logs, 'MAXLEN', '~', log_length, '*', 'l', ARGV[i])
            printed[logs] = (printed[logs] or 0) + #ARGV[i]
        end
        if state ~= '' then
            follow(k + 3 + counted, more, state)
            redis.call('SET', record_key, record, 'EX', ARGV[more + 5])
        elseif record_key ~= calls and note then
            redis.call('SET', record_key, record, 'XX', 'KEEPTTL')
        elseif record_key ~= calls and record == '' then
            redis.call('DEL', record_key)
        elseif record_key ~= calls then
            redis.call('SET', record_key, record, 'EX', sync_keep)
        end
        if counted == 1 then keep(KEYS[k + 3], record_key, #record, state ~= '' and ARGV[more + 5] or sync_keep) end
    end
    k, a = k + 3 + counted, more
    if state ~= '' then k, a = k + 6, a + 9 end
    if kind == '2' then
        local places = k + ARGV[a]
        local after = places + ARGV[a + 4]
        for one = k, ours and after - 1 or 0 do
            if one < places then
                spend(KEYS[one], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3])
            else
                redis.call('HINCRBY', KEYS[one], ARGV[a + 3], -1)
            end
        end
        k, a = after, a + 5
    end
end
-- A batch that is sent again writes something too: WAIT asks for replicas that hold what this connection wrote last.
if metered > 0 or written < items then redis.call('INCRBY', KEYS[3], metered) end
for answers in pairs(touched) do redis.call('EXPIRE', answers, answers_keep) end
for logs, bytes in pairs(printed) do bound(logs, bytes) end
return written
