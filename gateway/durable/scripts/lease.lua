#!lua flags=allow-oom
-- Take deliveries that are due, for as long as one may take to be made; then they are due again. As many as one reply
-- should hold. Run even when the queue is full: what is delivered makes room.
--
-- KEYS[1]  deliveries (sorted set delivery → moment)   KEYS[2]  deliveries:items (hash delivery → Delivery)
-- ARGV[1]  how many at most  [2] the lease, in ms
--
-- Returns delivery, Delivery, moment at which the lease ends, delivery …; that moment is what proves the lease.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found, bytes = {}, 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
    local item = redis.call('HGET', KEYS[2], id)
    if item then
        local ends = string.format('%d', now + ARGV[2])
        redis.call('ZADD', KEYS[1], ends, id)
        found[#found + 1] = id
        found[#found + 1] = item
        found[#found + 1] = ends
        bytes = bytes + #item
        if bytes > 16777216 then break end
    else
        redis.call('ZREM', KEYS[1], id)
    end
end
return found
