#!lua flags=allow-oom
-- Put calls of a silent invoker on other invokers' streams, each exactly once; nothing, when it has been heard of again.
--
-- Fenced as completions are: what the invoker was given is moved only by who removes it from the group's pending list,
-- so it can no longer be completed there; what it was not given, only by who takes it off the stream.
--
-- KEYS[1]  invokers          hash invoker → Heartbeat
-- KEYS[2]  calls:{invoker}   stream {c: Call}   the silent one's
-- then two per call:
--   calls:{invoker}          stream {c: Call}   where it goes
--   backlog:{tenant}         hash invocation → where it is
-- ARGV[1]  the silent invoker's id  [2] the mark of its last heartbeat, "": it had none  [3] the consumer group
-- then per call:
--   id          the entry's id
--   invocation
--   given       "1": the invoker had been given it
--   call        Call
--
-- Returns the number of calls that were moved; -1 when the invoker is there again.

local from, group = KEYS[2], ARGV[3]
local beat = redis.call('HGET', KEYS[1], ARGV[1])
if (beat and redis.sha1hex(beat) or '') ~= ARGV[2] then return -1 end

local function given(id)
    local pending = redis.pcall('XPENDING', from, group, id, id, 1)
    return not pending.err and #pending == 1
end

local k, moved = 3, 0
for a = 4, #ARGV, 4 do
    local to, id, invocation = KEYS[k], ARGV[a], ARGV[a + 1]
    local taken
    if ARGV[a + 2] == '1' then
        taken = redis.call('XACK', from, group, id) == 1
        if taken then redis.call('XDEL', from, id) end
    else
        taken = not given(id) and redis.call('XDEL', from, id) == 1
    end
    if taken then
        local entry = redis.call('XADD', to, '*', 'c', ARGV[a + 3])
        if redis.call('HEXISTS', KEYS[k + 1], invocation) == 1 then
            redis.call('HSET', KEYS[k + 1], invocation, to .. ' ' .. entry)
        end
        moved = moved + 1
    end
    k = k + 2
end
return moved
