-- Tell once, among all gateways, that a budget is close or used up, and queue what its destination is told.
--
-- KEYS[1]  spending:{…}      hash of counters
-- KEYS[2]  deliveries        sorted set delivery → moment
-- KEYS[3]  deliveries:items  hash delivery → Delivery
-- KEYS[4]  tally:{tenant}    hash of counters
-- ARGV[1]  the field that says it was told  [2] id of the delivery; "": nobody is to be told  [3] Delivery  [4] now, ms
-- ARGV[5]  seconds that counters are kept
--
-- Returns 1, or 0 when it was told before.

if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[4]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[5])
if ARGV[2] ~= '' then
    redis.call('ZADD', KEYS[2], ARGV[4], ARGV[2])
    redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
    redis.call('HINCRBY', KEYS[4], 'destined', 1)
    redis.call('HINCRBY', KEYS[4], 'bytes', #ARGV[3])
end
return 1
