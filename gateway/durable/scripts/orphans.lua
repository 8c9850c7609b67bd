-- Say that this gateway is there, and keep the answers that gateways which are not there any more did not fetch: by
-- their invocations, to be asked for. What was streamed has gone with its reader.
--
-- KEYS[1]  gateways   sorted set of gateways → when they were last there, in ms
-- ARGV[1]  this gateway  [2] ms without a word after which one is gone  [3] ms after which it is forgotten
-- ARGV[4]  what stands before a gateway's name in answers:{gateway}, a list of Answer and Piece
-- ARGV[5]  what stands before an invocation's id in answer:{id}, a string Answer; [6] seconds that it is kept
-- ARGV[7]  how many answers at most
--
-- Returns how many answers were taken.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
local left = tonumber(ARGV[7])
local gone = redis.call('ZRANGE', KEYS[1], '-inf', now - ARGV[2], 'BYSCORE', 'WITHSCORES')
for i = 1, #gone, 2 do
    local answers = ARGV[4] .. gone[i]
    while left > 0 do
        local packed = redis.call('LPOP', answers)
        if not packed then break end
        left = left - 1
        local fields = packed:byte(1) - 0x90 -- a packed array of fewer than 16; a Piece has 6
        if fields > 6 and fields < 16 then
            local invocation = select(2, cmsgpack.unpack_limit(packed:sub(2), 1))
            redis.call('SET', ARGV[5] .. invocation, packed, 'EX', ARGV[6])
        end
    end
    if left > 0 and now - gone[i + 1] > tonumber(ARGV[3]) then redis.call('ZREM', KEYS[1], gone[i]) end
end
return tonumber(ARGV[7]) - left
