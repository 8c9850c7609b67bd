"""All that triggers say to Redis: their state and log, and the claim of a tick, which is one step with its call.

A trigger's state is one hash (keys.trigger): since and spec (from when, and for which settings), tick (the last one
dealt with), paused, invocation (of the last tick), last (when it last called), lag and error (queues), and the counters
fired, skipped, failed and dead. A queue is served by one gateway at a time, which holds its lease (keys.trigger_lease).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.durable.store import Accepted
from gateway.store import CONNECT_MAX_S, REPLY_MAX_S, translated
from gateway.triggers.trigger import Trigger, TriggerId, TriggerState
from jiffy import primary
from jiffy.contract import keys, limits, wire

ADOPT = """
-- Begins to keep a trigger, anew when its settings are not those that were kept; returns since and tick.
-- KEYS[1]: trigger (hash)    ARGV: now (epoch ms), fingerprint of the settings
if redis.call('HGET', KEYS[1], 'spec') ~= ARGV[2] then
  redis.call('HSET', KEYS[1], 'spec', ARGV[2], 'since', ARGV[1], 'tick', ARGV[1])
  redis.call('HDEL', KEYS[1], 'invocation')
end
return redis.call('HMGET', KEYS[1], 'since', 'tick')
"""

FIRE = """
-- Claims ticks, each once among all gateways, in one step with its call. Returns per tick: what became of it, and the
-- trigger's last tick now.
-- KEYS[1]: later (sorted set invocation → moment)  [2]: later:calls (hash invocation → Call)
--      per tick: trigger (hash), its log (stream), calls:{invoker} (stream; KEYS[1]: the call waits in later),
--      invocation:{id} (string),
--      backlog:{tenant} (hash), tally:{tenant} (hash): as in durable/scripts/accept.lua
-- ARGV[1]: now; [2]: seconds that a record is kept; [3]: length of a log; [4]: what stands before an invocation's id;
--      [5], [6]: how many calls a tenant's backlog may have, and bytes of their payloads
--      per tick: tick, fingerprint, overlap, invocation id, Call, InvocationRecord, bytes of the payload
local ended = {done = true, dead = true, cancelled = true}
local out = {}
-- A record is a packed array of fewer than 16, its fifth value the state. Bytes come later, which cmsgpack can't read.
local function runs(record)
  return record and not ended[select(6, cmsgpack.unpack_limit(record:sub(2), 5))]
end
local function full(backlog, tally, bytes)
  if redis.call('HLEN', backlog) >= tonumber(ARGV[5]) then return true end
  return (redis.call('HGET', tally, 'bytes') or 0) + bytes > tonumber(ARGV[6])
end
local function log(stream, kind, invocation, text)
  redis.call('XADD', stream, 'MAXLEN', '~', ARGV[3], '*', 'k', kind, 'i', invocation, 't', text)
end
for n = 0, (#KEYS - 2) / 6 - 1 do
  local k, a = 2 + n * 6, 6 + n * 7
  local trigger, stream = KEYS[k + 1], KEYS[k + 2]
  local tick, spec, overlap, id = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local state = redis.call('HMGET', trigger, 'spec', 'tick', 'paused', 'invocation')
  local became
  if state[1] ~= spec then became = 'changed'
  elseif tonumber(state[2]) >= tonumber(tick) then became = 'taken'
  elseif state[3] then
    became = 'paused'
    redis.call('HSET', trigger, 'tick', tick)
  else
    local busy = false
    if overlap ~= 'allow' and state[4] then
      busy = runs(redis.call('GET', ARGV[4] .. state[4]))
    end
    if busy and overlap == 'queue' then became = 'busy'
    elseif busy then
      became = 'skipped'
      redis.call('HSET', trigger, 'tick', tick)
      redis.call('HINCRBY', trigger, 'skipped', 1)
      log(stream, 'skipped', id, 'the call of the tick before, ' .. state[4] .. ', still runs')
    elseif full(KEYS[k + 5], KEYS[k + 6], ARGV[a + 7]) then became = 'full'
    else
      became = 'fired'
      redis.call('SET', KEYS[k + 4], ARGV[a + 6], 'EX', ARGV[2])
      local where = 'later'
      if KEYS[k + 3] == KEYS[1] then
        redis.call('ZADD', KEYS[1], ARGV[1], id)
        redis.call('HSET', KEYS[2], id, ARGV[a + 5])
      else
        where = KEYS[k + 3] .. ' ' .. redis.call('XADD', KEYS[k + 3], '*', 'c', ARGV[a + 5])
      end
      redis.call('HSET', KEYS[k + 5], id, where)
      redis.call('HINCRBY', KEYS[k + 6], 'accepted', 1)
      redis.call('HINCRBY', KEYS[k + 6], 'bytes', ARGV[a + 7])
      redis.call('HSET', trigger, 'tick', tick, 'invocation', id, 'last', ARGV[1])
      redis.call('HINCRBY', trigger, 'fired', 1)
      log(stream, 'fired', id, 'tick ' .. tick)
    end
  end
  out[#out + 1] = became
  out[#out + 1] = tonumber(redis.call('HGET', trigger, 'tick') or 0)
end
return out
"""


LEASE = """
-- Takes or renews the leases on queues. Returns per queue: 1 it is ours, 0 another gateway's, 2 paused.
-- KEYS per queue: trigger (hash), lease (string)    ARGV: gateway, now (epoch ms), milliseconds that a lease lasts
local out = {}
for k = 1, #KEYS, 2 do
  local holder = redis.call('GET', KEYS[k + 1])
  if redis.call('HEXISTS', KEYS[k], 'paused') == 1 then
    if holder == ARGV[1] then redis.call('DEL', KEYS[k + 1]) end
    out[#out + 1] = 2
  elseif not holder or holder == ARGV[1] then
    redis.call('HSETNX', KEYS[k], 'since', ARGV[2])
    redis.call('SET', KEYS[k + 1], ARGV[1], 'PX', ARGV[3])
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
end
return out
"""

RELEASE = """
-- Gives back a lease.  KEYS[1]: lease (string)    ARGV[1]: gateway
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


HELD_ELSEWHERE, LEASED, PAUSED = range(3)


class Tick(NamedTuple):
    """One tick to claim, and the call that it makes."""

    trigger: Trigger
    tick_ms: int
    made: Accepted


class Claim(NamedTuple):
    """What became of a tick: fired, skipped, paused, busy, full (the tenant's backlog), taken (by another gateway),
    changed; and the last tick now."""

    became: str
    tick_ms: int


class LogLine(NamedTuple):
    """What a trigger did."""

    at_ms: int
    kind: str  # fired, skipped, failed, dead, paused, resumed
    invocation: str
    text: str


def fingerprint(trigger: Trigger) -> str:
    """Equal when nothing was changed about a trigger."""
    return json.dumps([trigger.type, dict(trigger.options)], sort_keys=True)


class TriggerStore:
    """Triggers as Redis knows them."""

    def __init__(self, url: str) -> None:
        self._redis: Any = primary.client(url, socket_timeout=REPLY_MAX_S, socket_connect_timeout=CONNECT_MAX_S)
        self._adopt = self._redis.register_script(ADOPT)
        self._fire = self._redis.register_script(FIRE)
        self._lease = self._redis.register_script(LEASE)
        self._release = self._redis.register_script(RELEASE)

    async def close(self) -> None:
        with translated():
            await self._redis.aclose()

    async def adopt(self, trigger: Trigger, now_ms: int) -> tuple[int, int]:
        """Begin to keep a trigger; since when it has these settings, and its last tick."""
        with translated():
            since, tick = await self._adopt(keys=[keys.trigger(*trigger.id)], args=[now_ms, fingerprint(trigger)])
        return int(since), int(tick)

    async def fire(self, ticks: Sequence[Tick], now_ms: int, calls_max: int, bytes_max: int) -> list[Claim]:
        """Claim these ticks and send the calls of those that are ours, in one atomic step."""
        names: list[str] = [keys.LATER, keys.LATER_CALLS]
        keep_s = max((tick.made.keep_s for tick in ticks), default=0)
        args: list[Any] = [now_ms, keep_s, limits.TRIGGER_LOG_MAX, keys.invocation(""), calls_max, bytes_max]
        for tick in ticks:
            key = tick.trigger.id
            made, call = tick.made, tick.made.call
            names += [
                keys.trigger(*key),
                keys.trigger_log(*key),
                keys.calls(made.invoker) if made.invoker else keys.LATER,
            ]
            names += [keys.invocation(call.invocation), keys.backlog(made.tenant), keys.tally(made.tenant)]
            args += [tick.tick_ms, fingerprint(tick.trigger), tick.trigger.options["overlap"], call.invocation]
            args += [wire.pack(call), wire.pack(made.record), len(call.payload)]
        with translated():
            told = await self._fire(keys=names, args=args)
        return [Claim(became.decode(), at) for became, at in zip(told[::2], told[1::2], strict=True)]

    async def forget(self, key: TriggerId) -> None:
        """A trigger is declared no more."""
        with translated():
            await self._redis.delete(
                *(keys.trigger(*key), keys.trigger_log(*key), keys.files(*key), keys.files_tries(*key))
            )

    # --- queues ---------------------------------------------------------------------------------------------

    async def lease(self, wanted: Sequence[TriggerId], gateway: str, now_ms: int, lasts_ms: int) -> list[int]:
        """Take or renew these: LEASED, HELD_ELSEWHERE or PAUSED for each."""
        names = [name for key in wanted for name in (keys.trigger(*key), keys.trigger_lease(*key))]
        with translated():
            return list(await self._lease(keys=names, args=[gateway, now_ms, lasts_ms])) if names else []

    async def release(self, key: TriggerId, gateway: str) -> None:
        with translated():
            await self._release(keys=[keys.trigger_lease(*key)], args=[gateway])

    async def write(
        self, key: TriggerId, counts: Mapping[str, int], fields: Mapping[str, int | str], lines: Sequence[LogLine]
    ) -> None:
        """What a queue's consumer has to tell, gathered: counters, fields of the state, lines of the log."""
        pipe = self._redis.pipeline(transaction=True)
        for name, count in counts.items():
            pipe.hincrby(keys.trigger(*key), name, count)
        if fields:
            pipe.hset(keys.trigger(*key), mapping=dict(fields))
        for line in lines:
            entry = {"k": line.kind, "i": line.invocation, "t": line.text}
            pipe.xadd(keys.trigger_log(*key), entry, maxlen=limits.TRIGGER_LOG_MAX, approximate=True)
        with translated():
            await pipe.execute()

    # --- by hand --------------------------------------------------------------------------------------------

    async def pause(self, key: TriggerId, now_ms: int) -> None:
        await self._note(key, "paused", {"paused": now_ms})

    async def resume(self, key: TriggerId, now_ms: int) -> None:
        """Go on from now: ticks of the pause are not missed ones."""
        await self._note(key, "resumed", {"tick": now_ms}, remove="paused")

    async def called(self, key: TriggerId, kind: str, invocation: str, text: str, now_ms: int, count: int = 1) -> None:
        """Write down that a trigger called its function, or failed to: kind is "fired" or "failed"."""
        await self._note(
            key, kind, {"last": now_ms} if kind == "fired" else {}, invocation=invocation, text=text, count=count
        )

    async def _note(
        self,
        key: TriggerId,
        kind: str,
        fields: Mapping[str, int],
        *,
        remove: str = "",
        invocation: str = "",
        text: str = "",
        count: int = 0,
    ) -> None:
        name, log = keys.trigger(*key), keys.trigger_log(*key)
        pipe = self._redis.pipeline(transaction=True)
        if fields:
            pipe.hset(name, mapping=dict(fields))
        if remove:
            pipe.hdel(name, remove)
        if count:
            pipe.hincrby(name, kind, count)
        pipe.xadd(log, {"k": kind, "i": invocation, "t": text}, maxlen=limits.TRIGGER_LOG_MAX, approximate=True)
        with translated():
            await pipe.execute()

    async def states(self, ids: Sequence[TriggerId]) -> list[TriggerState]:
        fields = ("paused", "error", "since", "tick", "last", "fired", "skipped", "failed", "dead", "lag")
        pipe = self._redis.pipeline(transaction=False)
        for key in ids:
            pipe.hmget(keys.trigger(*key), fields)
        with translated():
            found = await pipe.execute() if ids else []
        return [
            TriggerState(paused is not None, (error or b"").decode("utf-8", "replace"), *(int(v or 0) for v in values))
            for paused, error, *values in found
        ]

    async def log(self, key: TriggerId, count: int) -> list[LogLine]:
        """What a trigger did last, oldest first."""
        with translated():
            found = await self._redis.xrevrange(keys.trigger_log(*key), count=count)
        return [
            LogLine(
                int(entry.partition(b"-")[0]), *(fields[key].decode("utf-8", "replace") for key in (b"k", b"i", b"t"))
            )
            for entry, fields in reversed(found)
        ]
