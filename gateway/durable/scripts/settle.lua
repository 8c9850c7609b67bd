-- What became of a delivery: made, to be tried again, or a dead letter. Only who holds its lease may say so.
--
-- KEYS[1]  deliveries (sorted set delivery → moment)   KEYS[2]  deliveries:items (hash delivery → Delivery)
-- KEYS[3]  tally:{tenant} (hash of counters)
-- KEYS[4]  dead:{tenant} (sorted set)  [5] dead:letters:{tenant} (hash)  [6] dead:calls:{tenant} (hash)
-- ARGV[1]  delivery  [2] the moment that proves the lease  [3] "delivered", "again" or "undelivered"
-- ARGV[4]  again: when it is due; undelivered: now  [5] Delivery  [6] undelivered: DeadLetter
-- ARGV[7]  how many dead letters a tenant may have
--
-- Returns 1, or 0 when the lease is not held any more.

local id, state, moment = ARGV[1], ARGV[3], ARGV[4]
if tonumber(redis.call('ZSCORE', KEYS[1], id) or -1) ~= tonumber(ARGV[2]) then return 0 end
if state == 'again' then
    redis.call('ZADD', KEYS[1], moment, id)
    redis.call('HSET', KEYS[2], id, ARGV[5])
    return 1
end
redis.call('ZREM', KEYS[1], id)
redis.call('HDEL', KEYS[2], id)
redis.call('HINCRBY', KEYS[3], state, 1)
if state == 'undelivered' then
    redis.call('ZADD', KEYS[4], moment, id)
    redis.call('HSET', KEYS[5], id, ARGV[6])
    redis.call('HSET', KEYS[6], id, ARGV[5])
    redis.call('HINCRBY', KEYS[3], 'dead_bytes', #ARGV[5])
    if redis.call('ZCARD', KEYS[4]) > tonumber(ARGV[7]) then
        local oldest = redis.call('ZPOPMIN', KEYS[4])[1]
        redis.call('HINCRBY', KEYS[3], 'dead_bytes', -redis.call('HSTRLEN', KEYS[6], oldest))
        redis.call('HDEL', KEYS[5], oldest)
        redis.call('HDEL', KEYS[6], oldest)
        redis.call('HINCRBY', KEYS[3], 'dropped', 1)
    end
end
return 1
