-- Accept a batch of calls: each has a record, and stands on an invoker's stream or waits for its time; an asynchronous
-- one is in the backlog, and counted; one with an idempotency key holds it. Or nothing of it is there.
--
-- KEYS[1]  later             sorted set invocation → moment
-- KEYS[2]  later:calls       hash invocation → Call
-- then six per call:
--   calls:{invoker}          stream {c: Call}
--   invocation:{id}          string InvocationRecord
--   backlog:{tenant}         hash invocation → where it is; KEYS[1] for a synchronous call
--   tally:{tenant}           hash of counters
--   once:{…}                 string: who holds this idempotency key; KEYS[1] without one
--   line:{…}                 list of invocations with the same order key; KEYS[1] without one
-- ARGV[1]  how many calls a tenant's backlog may have, [2] the bytes of their payloads
-- ARGV[3]  what stands before an invocation's id in the name of its record
-- then per call: invocation, Call, InvocationRecord, keep (seconds, of the record), due ("0": now), bytes (of its
-- payload), fingerprint (of the request), window (seconds, of the idempotency key), "1" when its bytes are counted
-- already: it is what a delivery becomes
--
-- Returns per call: 1 accepted, 0 the backlog is full, or "fingerprint invocation" of who holds its idempotency key.
-- `stand` is contract/lines.py's. A holder whose record is gone holds nothing: its call never began, or its window is over.

local calls_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2])
local none, k, results = KEYS[1], 3, {}

local function held(once)
    local holder = once ~= none and redis.call('GET', once)
    if not holder then return nil end
    return redis.call('EXISTS', ARGV[3] .. holder:sub(holder:find(' ') + 1)) == 1 and holder or nil
end

-- What is counted of a tenant is read once for the batch, and written once.
local books = {}
local function book(backlog, tally)
    if not books[tally] then
        local bytes = tonumber(redis.call('HGET', tally, 'bytes') or 0)
        books[tally] = { waiting = redis.call('HLEN', backlog), held = bytes, accepted = 0, bytes = 0 }
    end
    return books[tally]
end

local function full(kept, bytes, counted)
    if kept.waiting + kept.accepted >= calls_max then return true end
    return counted ~= '1' and kept.held + kept.bytes + bytes > bytes_max
end

for a = 4, #ARGV, 9 do
    local stream, record, backlog, tally, once = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4]
    local invocation, call, due, bytes = ARGV[a], ARGV[a + 1], ARGV[a + 4], tonumber(ARGV[a + 5])
    local kept = backlog ~= none and book(backlog, tally)
    local result = held(once)
    if result then redis.call('SET', once, result, 'KEEPTTL') end -- for WAIT, which asks for what was written last
    if not result and kept and full(kept, bytes, ARGV[a + 8]) then result = 0 end
    if not result then
        result = 1
        if once ~= none then redis.call('SET', once, ARGV[a + 6] .. ' ' .. invocation, 'EX', ARGV[a + 7]) end
        redis.call('SET', record, ARGV[a + 2], 'EX', ARGV[a + 3])
        local where, moment, line = 'later', tonumber(due), KEYS[k + 5]
        if line ~= none then moment = stand(line, invocation, moment) end
        if moment == 0 then
            where = stream .. ' ' .. redis.call('XADD', stream, '*', 'c', call)
        else
            redis.call('ZADD', KEYS[1], moment, invocation)
            redis.call('HSET', KEYS[2], invocation, call)
        end
        if kept then
            redis.call('HSET', backlog, invocation, where)
            kept.accepted, kept.bytes = kept.accepted + 1, kept.bytes + bytes
        end
    end
    results[#results + 1] = result
    k = k + 6
end
for tally, kept in pairs(books) do
    if kept.accepted > 0 then
        redis.call('HINCRBY', tally, 'accepted', kept.accepted)
        redis.call('HINCRBY', tally, 'bytes', kept.bytes)
    end
end
return results
