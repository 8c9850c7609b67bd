#!lua flags=allow-oom
-- Write what was kept ready, each batch exactly once: a number that this process has written already changes nothing,
-- so sending a batch again after a lost connection is harmless.
--
-- KEYS[1]  usage                  stream {p: Provision}
-- KEYS[2]  metered                string, a counter    usage records ever written
-- KEYS[3]  provisioned:{process}  string               the last batch's number; expires
-- ARGV[1]  the batch's number: 1, 2, 3 …
-- ARGV[2]  seconds for which KEYS[3] is kept
-- then the records, Provision
--
-- Returns how many were written.

if tonumber(redis.call('GET', KEYS[3]) or '0') >= tonumber(ARGV[1]) then return 0 end
for i = 3, #ARGV do redis.call('XADD', KEYS[1], '*', 'p', ARGV[i]) end
redis.call('INCRBY', KEYS[2], #ARGV - 2)
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
return #ARGV - 2
