-- Let calls in under hard budgets and quotas: each is held room for what it may cost, of every counter that it spends
-- of, is counted at its rates and has its places, or nothing of it. A budget is used up when what is spent and what is
-- held reach it, so it is passed by less than one call.
--
-- KEYS per call, one after the other:
--   spending:{…}        hash of counters: spent, seed, held:{slot}
--   quota:rate:{…}      string: when all that was let in would have come at the rate, in µs (GCRA)
--   quota:places:{…}    hash: held:{slot}, how many run or wait
-- ARGV[1]  the slot that is now: what is held in earlier ones is over, and goes
-- ARGV[2]  seconds that counters are kept
-- then per call: how many counters, rates and places it has; what it may cost; the field where it is held; of each
-- counter its limit ("": none), of each rate the µs from one call to the next and those that may be used up at once, of
-- each place how many there are
--
-- Returns two per call. The first: 0 it may run; i > 0: its i-th key refuses it (of a counter, all is spent); -i: what
-- is left of its i-th counter is held by others. The second: in how many µs its rate will let it in.

local now, a, k, results, counters = ARGV[1] + 0, 3, 0, {}, {}
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]

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

local function hold(key, slot, amount)
    redis.call('HINCRBY', key, slot, amount)
    redis.call('EXPIRE', key, ARGV[2])
    counters[key].held = counters[key].held + amount
end

local function next_at(key, interval)
    return math.max(tonumber(redis.call('GET', key)) or now_us, now_us) + interval
end

while a <= #ARGV do
    local n, rates, places = ARGV[a] + 0, ARGV[a + 1] + 0, ARGV[a + 2] + 0
    local worst, slot, result, wait = ARGV[a + 3] + 0, ARGV[a + 4], 0, 0
    local limits, rated, placed = a + 4, a + 4 + n, a + 4 + n + 2 * rates
    for i = 1, n do
        local limit, found = tonumber(ARGV[limits + i]), look(KEYS[k + i])
        if limit and found.spent >= limit then
            result = i
            break
        elseif limit and result == 0 and found.spent + found.held >= limit then
            result = -i
        end
    end
    for i = 1, result == 0 and places or 0 do
        if look(KEYS[k + n + rates + i]).held >= ARGV[placed + i] + 0 then result = n + rates + i end
    end
    for i = 1, result == 0 and rates or 0 do
        local over = next_at(KEYS[k + n + i], ARGV[rated + 2 * i - 1]) - ARGV[rated + 2 * i] - now_us
        if over > wait then result, wait = n + i, math.ceil(over) end
    end
    if result == 0 then
        for i = 1, worst > 0 and n or 0 do hold(KEYS[k + i], slot, worst) end
        for i = 1, places do hold(KEYS[k + n + rates + i], slot, 1) end
        for i = 1, rates do
            local key = KEYS[k + n + i]
            local at = next_at(key, ARGV[rated + 2 * i - 1])
            redis.call('SET', key, string.format('%.0f', at), 'PX', math.ceil((at - now_us) / 1000))
        end
    end
    results[#results + 1] = result
    results[#results + 1] = wait
    k, a = k + n + rates + places, placed + places + 1
end
return results
