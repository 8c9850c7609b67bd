-- A page of what an invoker left on its stream, as much as one reply should hold. Changes nothing.
--
-- KEYS[1]  calls:{invoker}  stream {c: Call}
-- ARGV[1]  the consumer group  [2] where to begin ("-", or "(" and the last entry's id)  [3] how many at most
--
-- Returns id, Call, "1" if the invoker was given it (it may have begun), id …

local found, bytes, after = {}, 0, ARGV[2]
while #found < ARGV[3] * 3 and bytes < 16777216 do
    local entries = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 16)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
        local id, call = entry[1], entry[2][2]
        local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
        found[#found + 1] = id
        found[#found + 1] = call
        found[#found + 1] = not pending.err and #pending == 1 and '1' or '0'
        bytes = bytes + #call
        after = '(' .. id
    end
end
return found
