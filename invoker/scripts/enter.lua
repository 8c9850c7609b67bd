#!lua flags=allow-oom
-- Take an invoker's name, unless another process has it, and make its stream known and its group. Run even when the
-- queue is full: an invoker that comes makes it emptier.
--
-- The stream is made known with its group: calls of an invoker that nobody knows are nobody's to take over.
--
-- KEYS[1]  holder:{invoker}  string: who has this name
-- KEYS[2]  streams           sorted set invoker → when it was alive, in ms
-- KEYS[3]  calls:{invoker}   stream {c: Call}
-- ARGV[1]  who we are  [2] ms that the name stays ours  [3] the invoker's id  [4] now, in ms  [5] the consumer group
--
-- Returns 1, or 0 when another one has the name.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[3], ARGV[5], '0', 'MKSTREAM')
if made.err and not made.err:find('BUSYGROUP') then return made end
return 1
