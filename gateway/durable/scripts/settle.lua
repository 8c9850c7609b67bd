#!lua flags=allow-oom
-- What became of a delivery: made, to be tried again, or a dead letter. Only who holds its lease may say so.
-- `bury` is contract/burial.py's.
--
-- KEYS[1]  deliveries (sorted set delivery → moment)   KEYS[2]  deliveries:items (hash delivery → Delivery)
-- KEYS[3]  tally:{tenant} (hash of counters)
-- KEYS[4]  dead:{tenant} (sorted set)  [5] dead:letters:{tenant} (hash)  [6] dead:calls:{tenant} (hash)
-- ARGV[1]  delivery  [2] the moment that proves the lease  [3] "delivered", "again" or "undelivered"
-- ARGV[4]  again: when it is due; undelivered: now  [5] Delivery  [6] undelivered: DeadLetter
-- ARGV[7]  how many dead letters a tenant may have, [8] the bytes of their calls, [9] ms that they are kept
--
-- Returns 1, or 0 when the lease is not held any more.

local id, state, moment = ARGV[1], ARGV[3], ARGV[4]
if tonumber(redis.call('ZSCORE', KEYS[1], id) or -1) ~= tonumber(ARGV[2]) then return 0 end
local bytes = redis.call('HSTRLEN', KEYS[2], id)
if state == 'again' then
    redis.call('ZADD', KEYS[1], moment, id)
    redis.call('HSET', KEYS[2], id, ARGV[5])
    redis.call('HINCRBY', KEYS[3], 'bytes', #ARGV[5] - bytes)
    return 1
end
redis.call('ZREM', KEYS[1], id)
redis.call('HDEL', KEYS[2], id)
redis.call('HINCRBY', KEYS[3], 'bytes', -bytes)
redis.call('HINCRBY', KEYS[3], state, 1)
if state == 'undelivered' then
    local most, most_bytes, keep = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
    bury(KEYS[3], KEYS[4], KEYS[5], KEYS[6], id, tonumber(moment), ARGV[5], ARGV[6], most, most_bytes, keep)
end
return 1
