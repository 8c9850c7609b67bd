-- Throw dead letters away.
-- `exhume` is contract/burial.py's.
--
-- KEYS[1]  tally:{tenant} (hash of counters)
-- KEYS[2]  dead:{tenant} (sorted set)  [3] dead:letters:{tenant} (hash)  [4] dead:calls:{tenant} (hash)
-- ARGV     invocations
--
-- Returns how many were there.

local purged = 0
for _, invocation in ipairs(ARGV) do
    if exhume(KEYS[1], KEYS[2], KEYS[3], KEYS[4], invocation) then purged = purged + 1 end
end
if purged > 0 then redis.call('HINCRBY', KEYS[1], 'purged', purged) end
return purged
