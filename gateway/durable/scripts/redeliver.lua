-- Give dead deliveries another life: each leaves the dead letters and is due at once.
-- `exhume` is contract/burial.py's.
--
-- KEYS[1]  deliveries (sorted set delivery → moment)   KEYS[2]  deliveries:items (hash delivery → Delivery)
-- KEYS[3]  tally:{tenant} (hash of counters)
-- KEYS[4]  dead:{tenant} (sorted set)  [5] dead:letters:{tenant} (hash)  [6] dead:calls:{tenant} (hash)
-- ARGV per delivery: its id, Delivery, moment
--
-- Returns how many.

local again = 0
for a = 1, #ARGV, 3 do
    local id = ARGV[a]
    if exhume(KEYS[3], KEYS[4], KEYS[5], KEYS[6], id) then
        redis.call('ZADD', KEYS[1], ARGV[a + 2], id)
        redis.call('HSET', KEYS[2], id, ARGV[a + 1])
        redis.call('HINCRBY', KEYS[3], 'redelivered', 1)
        redis.call('HINCRBY', KEYS[3], 'bytes', #ARGV[a + 1])
        again = again + 1
    end
end
return again
