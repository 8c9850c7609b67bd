-- Which calls are due? Changes nothing but what is broken: an invocation without its call is taken out.
--
-- KEYS[1]  later (sorted set invocation → moment)   KEYS[2]  later:calls (hash invocation → Call)
-- ARGV[1]  how many at most
--
-- Returns invocation, Call, invocation, Call …, the longest due first; as much as one reply should hold.

local now = redis.call('TIME')
local due = redis.call('ZRANGE', KEYS[1], '-inf', now[1] * 1000 + math.floor(now[2] / 1000), 'BYSCORE', 'LIMIT', 0, ARGV[1])
local found, bytes = {}, 0
for _, invocation in ipairs(due) do
    local call = redis.call('HGET', KEYS[2], invocation)
    if call then
        found[#found + 1] = invocation
        found[#found + 1] = call
        bytes = bytes + #call
        if bytes > 16777216 then break end
    else
        redis.call('ZREM', KEYS[1], invocation)
    end
end
return found
