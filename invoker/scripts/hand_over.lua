-- Put calls that have not begun on another invoker's stream, each exactly once.
--
-- Fenced as completions are: only an entry whose XACK removes it from the group's pending list is moved, so asking
-- again after a lost connection moves nothing twice.
--
-- KEYS[1]  calls:{invoker}   stream {c: Call}   where they are
-- KEYS[2]  calls:{invoker}   stream {c: Call}   where they go
-- then one per call:
--   backlog:{tenant}         hash invocation → where it is
-- ARGV[1]  the consumer group
-- then per call:
--   id          the entry's id
--   invocation
--   call        Call
--
-- Returns the number of calls that were moved.

local from, to, moved = KEYS[1], KEYS[2], 0
local a = 2
for k = 3, #KEYS do
    local id, invocation = ARGV[a], ARGV[a + 1]
    if redis.call('XACK', from, ARGV[1], id) == 1 then
        redis.call('XDEL', from, id)
        local entry = redis.call('XADD', to, '*', 'c', ARGV[a + 2])
        if redis.call('HEXISTS', KEYS[k], invocation) == 1 then
            redis.call('HSET', KEYS[k], invocation, to .. ' ' .. entry)
        end
        moved = moved + 1
    end
    a = a + 3
end
return moved
