"""Asynchronous calls in Redis: accept, move, bury, replay, cancel; each one atomic step (scripts/*.lua).

It speaks through the connections of gateway/store.py, whose `client` it is given. Errors leave as Unavailable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from gateway.store import REPLY_MAX_S, held, translated
from jiffy.contract import burial, keys, limits, lines, lua, outage, wire
from jiffy.contract.messages import Answer, Call, DeadLetter, Delivery, InvocationRecord
from jiffy.line import Line, Script


class Claim(NamedTuple):
    """An idempotency key, and the fingerprint of the request that came with it."""

    key: str  # keys.once
    fingerprint: str


class Accepted(NamedTuple):
    """One call to accept. `due_ms` 0: at once, on `invoker`'s stream."""

    invoker: str
    tenant: str
    call: Call
    record: InvocationRecord
    keep_s: int
    due_ms: int = 0
    claim: Claim | None = None
    counted: bool = False  # its bytes already count: it is what a delivery becomes


class Holder(NamedTuple):
    """Who has an idempotency key."""

    fingerprint: str
    invocation: str


class Due(NamedTuple):
    """One call to move from its waiting to an invoker."""

    invoker: str
    tenant: str
    record: InvocationRecord
    call: bytes = b""  # in place of the one that waited


class Replay(NamedTuple):
    """One dead call's next attempt."""

    call: Call
    record: InvocationRecord
    keep_s: int
    due_ms: int


class Work(NamedTuple):
    """A tenant's asynchronous work at one moment."""

    counters: dict[str, int]  # keys.tally
    backlog: int
    dead_letters: int


class DurableStore:
    """`client` is gateway.store.Store's; so many `replicas` hold what callers are told was done."""

    def __init__(self, client: Any, replicas: int = 0) -> None:
        self._redis = client
        self._replicas = replicas
        self._accepting = Line(client.connection_pool)
        self._accept = Script(lua.script(text("accept"), lines.RULE))
        self._due = script(client, "due")
        self._move = script(client, "move")
        self._replay = client.register_script(lua.script(text("replay"), burial.RULE, lines.RULE))
        self._purge = client.register_script(lua.script(text("purge"), burial.RULE))
        self._orphans = script(client, "orphans")
        self._cancel = client.register_script(lua.script(text("cancel"), lines.RULE))

    async def accept(self, batch: Sequence[Accepted], calls_max: int, bytes_max: int) -> list[int | Holder]:
        """What became of each: 1 accepted, 0 its tenant's backlog is full, or who holds its idempotency key."""
        names: list[str] = [keys.LATER, keys.LATER_CALLS]
        values: list[bytes | str | int] = [calls_max, bytes_max, keys.invocation("")]
        for one in batch:
            call, claim = one.call, one.claim
            names += (keys.calls(one.invoker), keys.invocation(call.invocation))
            names += (keys.backlog(one.tenant) if call.mode == "async" else keys.LATER, keys.tally(one.tenant))
            names += (claim.key if claim else keys.LATER, line(one.record))
            values += (call.invocation, wire.pack(call), wire.pack(one.record), one.keep_s, one.due_ms)
            values += (len(call.payload), claim.fingerprint if claim else "", max(limits.ONCE_KEEP_S, one.keep_s))
            values.append("1" if one.counted else "")
        with translated():
            results = await self._accepting.run(self._accept, names, values, REPLY_MAX_S)
            if self._replicas:
                found = await self._accepting.held(self._replicas, outage.REPLICAS_WAIT_S, REPLY_MAX_S)
                outage.held(found, self._replicas)
        return [Holder(*result.decode().split(" ")) if type(result) is bytes else result for result in results]

    async def close(self) -> None:
        with translated():
            await self._accepting.cut()

    # --- calls that wait for their time ---------------------------------------------------------------------

    async def due(self, count: int) -> list[tuple[str, bytes]]:
        """Up to `count` calls whose time has come: invocation and packed Call."""
        with translated():
            flat = await self._due(keys=[keys.LATER, keys.LATER_CALLS], args=[count])
        return [(invocation.decode(), call) for invocation, call in zip(flat[::2], flat[1::2], strict=True)]

    async def move(self, batch: Sequence[Due]) -> list[int]:
        """Put these on their invokers' streams; 1 for each that was still there to be moved, else 0."""
        names: list[str] = [keys.LATER, keys.LATER_CALLS]
        values: list[bytes | str] = []
        for one in batch:
            invocation = one.record.invocation
            names += (keys.calls(one.invoker), keys.invocation(invocation), keys.backlog(one.tenant))
            values += (invocation, wire.pack(one.record), one.call)
        with translated():
            return list(await self._move(keys=names, args=values))

    async def postpone(self, moments: Mapping[str, int]) -> None:
        """Look at these again at their moments, in ms, if they still wait."""
        with translated():
            await self._redis.zadd(keys.LATER, dict(moments), xx=True)

    # --- dead letters ---------------------------------------------------------------------------------------

    async def letters(self, tenant: str, after: tuple[int, str] | None, count: int) -> list[DeadLetter]:
        """Up to `count` letters, newest first, from those older than `after` (moment, invocation) on."""
        offset, top = 0, after[0] if after else "+inf"
        found: list[DeadLetter] = []
        while len(found) < count:
            with translated():
                page = await self._redis.zrevrangebyscore(
                    keys.dead(tenant), top, "-inf", start=offset, num=count, withscores=True
                )
                ids = [i for i, at in page if after is None or (int(at), i.decode()) < after]
                packed = await self._redis.hmget(keys.dead_letters(tenant), ids) if ids else []
            found += [wire.unpack(DeadLetter, data) for data in packed if data]
            if len(page) < count:
                break
            offset += count
        return found[:count]

    async def letter(self, tenant: str, invocation: str) -> tuple[DeadLetter, Call | Delivery] | None:
        """A letter, and the call or the delivery that died."""
        with translated():
            letter = await self._redis.hget(keys.dead_letters(tenant), invocation)
            call = await self._redis.hget(keys.dead_calls(tenant), invocation)
        if not letter or not call:
            return None
        dead = wire.unpack(DeadLetter, letter)
        return dead, wire.unpack(Delivery, call) if dead.target else wire.unpack(Call, call)

    async def replay(self, tenant: str, batch: Sequence[Replay]) -> int:
        """How many of these were still dead, and now wait for another attempt."""
        names = [keys.LATER, keys.LATER_CALLS, keys.backlog(tenant), keys.tally(tenant)]
        names += [keys.dead(tenant), keys.dead_letters(tenant), keys.dead_calls(tenant)]
        values: list[bytes | str | int] = []
        for one in batch:
            invocation = one.call.invocation
            names += (keys.invocation(invocation), line(one.record))
            values += (invocation, wire.pack(one.call), wire.pack(one.record), one.keep_s, one.due_ms)
            values.append(len(one.call.payload))
        with translated():
            async with held(self._redis, self._replicas) as one:
                return int(await self._replay(keys=names, args=values, client=one)) if batch else 0

    async def purge(self, tenant: str, invocations: Sequence[str]) -> int:
        """How many of these were there, and are not any more."""
        names = [keys.tally(tenant), keys.dead(tenant), keys.dead_letters(tenant), keys.dead_calls(tenant)]
        with translated():
            return int(await self._purge(keys=names, args=invocations)) if invocations else 0

    # --- answers whose gateway died ---------------------------------------------------------------------------

    async def keep_orphans(self, gateway: str, most: int) -> int:
        """Say that `gateway` is there, and keep up to `most` answers of others that are not; how many were taken."""
        forgotten_ms = int((limits.TIMEOUT_MAX_S + limits.ANSWERS_KEEP_S) * 1000)  # no answer comes later
        args: list[str | int] = [gateway, int(limits.GATEWAY_GONE_S * 1000), forgotten_ms, keys.answers("")]
        args += [keys.answer(""), limits.ORPHANS_KEEP_S, most]
        with translated():
            return int(await self._orphans(keys=[keys.GATEWAYS], args=args))

    async def orphan(self, invocation: str) -> Answer | None:
        """The answer that was kept of this synchronous call."""
        with translated():
            found = await self._redis.get(keys.answer(invocation))
        return wire.unpack(Answer, found) if found else None

    # --- counting -------------------------------------------------------------------------------------------

    async def work(self) -> dict[str, Work]:
        """Of every tenant that has functions."""
        with translated():
            tenants = sorted(tenant.decode() for tenant in await self._redis.smembers(keys.TENANTS))
            pipe = self._redis.pipeline(transaction=False)
            for tenant in tenants:
                pipe.hgetall(keys.tally(tenant)).hlen(keys.backlog(tenant)).zcard(keys.dead(tenant))
            found = await pipe.execute()
        return {
            tenant: Work({name.decode(): int(n) for name, n in found[at].items()}, found[at + 1], found[at + 2])
            for at, tenant in zip(range(0, len(found), 3), tenants, strict=True)
        }

    # --- cancelling -----------------------------------------------------------------------------------------

    async def where(self, tenant: str, invocation: str) -> str | None:
        """Where a call that has not ended is: "later", or "stream entry"."""
        with translated():
            place = await self._redis.hget(keys.backlog(tenant), invocation)
        return place.decode() if place else None

    async def head(self, record: InvocationRecord) -> str:
        """The invocation that runs before all others of its line, itself maybe; "": none."""
        with translated():
            found = await self._redis.lindex(line(record), 0) if record.line else None
        return found.decode() if found else ""

    async def queued_call(self, where: str, invocation: str) -> bytes | None:
        """The packed Call at this place."""
        with translated():
            if where == "later":
                waiting: bytes | None = await self._redis.hget(keys.LATER_CALLS, invocation)
                return waiting
            stream, _, entry = where.rpartition(" ")
            found = await self._redis.xrange(stream, entry, entry)
        return found[0][1].get(b"c") if found else None

    async def cancel(self, tenant: str, where: str, record: InvocationRecord, size: int) -> int:
        """1: cancelled. 0: an invoker has it. -1: it is not at this place any more."""
        stream, _, entry = where.rpartition(" ")
        names = [keys.LATER, keys.LATER_CALLS, keys.backlog(tenant), keys.tally(tenant)]
        names += [keys.invocation(record.invocation), stream or keys.LATER, line(record)]
        values = [record.invocation, where, entry, keys.GROUP, size, wire.pack(record), limits.RESULT_KEEP_S]
        with translated():
            async with held(self._redis, self._replicas) as one:
                return int(await self._cancel(keys=names, args=values, client=one))


def line(record: InvocationRecord) -> str:
    """The key of the line that it stands in; that of `later` if in none."""
    return keys.line(record.tenant, record.function, record.line) if record.line else keys.LATER


def script(client: Any, name: str) -> Any:
    """One of scripts/*.lua, ready to be called."""
    return client.register_script(text(name))


def text(name: str) -> bytes:
    return resources.files(__package__).joinpath(f"scripts/{name}.lua").read_bytes()
