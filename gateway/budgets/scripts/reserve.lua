-- Let calls in under hard budgets: each is held room for what it may cost, of every counter that it spends of, or of
-- none. A budget is used up when what is spent and what is held reach it, so it is passed by less than one call.
--
-- KEYS     spending:{…}      hash of counters: spent, seed, held:{slot}; those of each call, one after the other
-- ARGV[1]  the slot that is now: what is held in earlier ones is over, and goes
-- ARGV[2]  seconds that counters are kept
-- then per call: n (its counters), what it may cost, the field where it is held, and n limits ("": none)
--
-- Returns per call: 0 it may run; i > 0: of its i-th counter all is spent; i < 0: what is left there is held by others.

local now, counters, results, k, a = ARGV[1] + 0, {}, {}, 1, 3

local function look(key)
    if counters[key] then return counters[key] end
    local found, all = {spent = 0, held = 0}, redis.call('HGETALL', key)
    for i = 1, #all, 2 do
        local field, value = all[i], tonumber(all[i + 1])
        local slot = tonumber(field:match('^held:(%d+)$'))
        if field == 'spent' or field == 'seed' then
            found.spent = found.spent + value
        elseif slot and slot < now then
            redis.call('HDEL', key, field)
        elseif slot and value > 0 then
            found.held = found.held + value
        end
    end
    counters[key] = found
    return found
end

while a <= #ARGV do
    local n, worst, slot, result = ARGV[a] + 0, ARGV[a + 1], ARGV[a + 2], 0
    for i = 1, n do
        local limit, found = tonumber(ARGV[a + 2 + i]), look(KEYS[k + i - 1])
        if limit and found.spent >= limit then
            result = i
            break
        elseif limit and result == 0 and found.spent + found.held >= limit then
            result = -i
        end
    end
    if result == 0 then
        for i = 1, n do
            local key = KEYS[k + i - 1]
            redis.call('HINCRBY', key, slot, worst)
            redis.call('EXPIRE', key, ARGV[2])
            counters[key].held = counters[key].held + worst
        end
    end
    results[#results + 1] = result
    k, a = k + n, a + 3 + n
end
return results
