-- Who has a stream, and does anybody beat for it? Changes nothing but what is old: a stream that is empty and that no
-- invoker has beaten for in a long time is forgotten.
--
-- KEYS[1]  streams    sorted set invoker → when it was alive, in ms
-- KEYS[2]  invokers   hash invoker → Heartbeat
-- ARGV[1]  what stands before an invoker's id in calls:{invoker} (stream)
-- ARGV[2]  ms after which it is written anew when an invoker was alive, [3] ms after which it is forgotten
--
-- Returns invoker, mark of its last heartbeat ("": none), number of calls, invoker …

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local found = {}
for i = 1, #known, 2 do
    local invoker, age = known[i], now - known[i + 1]
    local stream = ARGV[1] .. invoker
    local beat, calls = redis.call('HGET', KEYS[2], invoker), redis.call('XLEN', stream)
    if beat and age > tonumber(ARGV[2]) then
        redis.call('ZADD', KEYS[1], now, invoker)
    elseif not beat and calls == 0 and age > tonumber(ARGV[3]) then
        redis.call('ZREM', KEYS[1], invoker)
        redis.call('DEL', stream)
    end
    found[#found + 1] = invoker
    found[#found + 1] = beat and redis.sha1hex(beat) or ''
    found[#found + 1] = calls
end
return found
