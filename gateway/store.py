"""All that the gateway says to Redis, and the only module of it that knows redis-py.

Its errors leave as Unavailable (try again) or PlatformError (never): jiffy.contract.outage says which.

Two connections of their own carry the calls (`send`, `receive`: one command per batch, no pool, no retry: a batch sent
twice would be calls run twice); everything else goes through a pool. The scripts are in scripts.py; dispatch.py has
the story of a call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from gateway import scripts
from jiffy import primary
from jiffy.contract import address, keys, limits, outage, wire
from jiffy.contract.clock import Clock
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import (
    BuilderBeat,
    BuildEvent,
    BuildRequest,
    Heartbeat,
    InvocationRecord,
    LogEntry,
    Revision,
)
from jiffy.line import Line, Script

CONNECT_MAX_S = 2.0
REPLY_MAX_S = 5.0  # a healthy Redis answers within a millisecond; this long means stuck or gone
CONNECTIONS_MAX = 256  # logs and builds that are being followed hold one each
FORGET_AFTER_MS = 60_000  # heartbeats older than this are removed
BACK_OFF_S = 0.2
FOLLOW_S = 2.0  # how long one look for changes waits: so soon it is noticed that the stream is another one
FOLLOWED_MAX = 64  # changes at a time
ANSWERS_MAX_BYTES = 64 * limits.MIB  # of one reply with answers, about
LOGS_PAGE = 100  # entries per look, at most 6 MB
LOGS_MAX_BYTES = 16 * limits.MIB  # of the past that one request holds in memory

SEND = Script(scripts.SEND.encode())

M = TypeVar("M")


class Beats(NamedTuple):
    """Who is out there, as last heard."""

    invokers: tuple[Heartbeat, ...] = ()
    builders: tuple[BuilderBeat, ...] = ()


class Sent(NamedTuple):
    """One synchronous call to put on a stream."""

    stream: str
    call: bytes


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as exc:
        raise outage.error(exc, answered=isinstance(exc, ResponseError)) from exc


@asynccontextmanager
async def held(client: Any, replicas: int) -> AsyncIterator[Any]:
    """A client; what its commands and scripts write is held by so many replicas at the end, else Unavailable is raised.

    Not what its pipelines write: they have connections of their own.
    """
    if not replicas:
        yield client
        return
    async with client.client() as one:  # a connection of its own: WAIT is about what came on it before
        yield one
        outage.held(await one.wait(replicas, int(outage.REPLICAS_WAIT_S * 1000)), replicas)


class Store:
    """The gateway's view of Redis. `beats` must have run once before `now_ms` means anything."""

    def __init__(self, url: str) -> None:
        self.replicas = address.parse(url).replicas
        self._redis: Any = primary.client(
            url,
            socket_timeout=REPLY_MAX_S,
            socket_connect_timeout=CONNECT_MAX_S,
            max_connections=CONNECTIONS_MAX,
        )
        self._pool: ConnectionPool = self._redis.connection_pool
        self._sending, self._receiving = Line(self._pool), Line(self._pool)
        self._live = self._redis.register_script(scripts.LIVE)
        self._live_revision = self._redis.register_script(scripts.LIVE_REVISION)
        self._put_source = self._redis.register_script(scripts.PUT_SOURCE)
        self._remove = self._redis.register_script(scripts.REMOVE)
        self._set_live = self._redis.register_script(scripts.SET_LIVE)
        self._clock = Clock()
        self._largest = limits.PAYLOAD_MAX_BYTES  # answer of late; until some have come, the largest there may be

    @property
    def client(self) -> Any:
        """The pooled connections, for the other stores of this gateway."""
        return self._redis

    async def close(self) -> None:
        with translated():
            await self._sending.cut()
            await self._receiving.cut()
            await self._pool.disconnect()

    # --- time and liveness ----------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Now, on the Redis server's clock."""
        return self._clock() // 1000

    async def beats(self) -> Beats:
        """All heartbeats that can be read; sets the clock, and forgets those who have been silent for long."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        pipe.hgetall(keys.INVOKERS)
        pipe.hgetall(keys.BUILDERS)
        asked = time.monotonic_ns()
        with translated():
            (seconds, micros), invokers, builders = await pipe.execute()
        self._clock.set(seconds * 1_000_000 + micros, asked, time.monotonic_ns())
        return Beats(
            await self._heard(keys.INVOKERS, Heartbeat, invokers),
            await self._heard(keys.BUILDERS, BuilderBeat, builders),
        )

    async def _heard(self, key: str, kind: type[M], found: dict[bytes, bytes]) -> tuple[M, ...]:
        oldest = self.now_ms() - FORGET_AFTER_MS
        beats: list[M] = []
        gone: list[bytes] = []
        for field, data in found.items():
            try:
                beat: Any = wire.unpack(kind, data)
                (gone.append(field) if beat.at_ms < oldest else beats.append(beat))
            except PlatformError:
                gone.append(field)  # not ours to read; a live one writes itself anew
        if gone:
            with translated():
                await self._redis.hdel(key, *gone)
        return tuple(beats)

    async def order_drain(self, invoker: str, *, drain: bool) -> None:
        """Have this invoker take no further calls, or take them again."""
        with translated():
            await (self._redis.sadd if drain else self._redis.srem)(keys.DRAINS, invoker)

    async def ping(self) -> None:
        """Raises Unavailable where nobody answers, or a server that can't be used."""
        with translated():
            await self._redis.exists(keys.USAGE, keys.LATER)  # a cluster that is given as one server refuses this

    # --- calls ----------------------------------------------------------------------------------------------

    async def send(self, batch: Sequence[Sent]) -> None:
        """Put a batch of calls on their streams, in one atomic step."""
        names = [sent.stream for sent in batch]
        values = [sent.call for sent in batch]
        with translated():
            await self._sending.run(SEND, names, values, REPLY_MAX_S)

    async def receive(self, gateway: str, wait_s: float = 1.0) -> Sequence[bytes]:
        """The packed answers that have come in; waits up to `wait_s` for the first.

        How many at once depends on the largest that came lately, so that ANSWERS_MAX_BYTES are rarely exceeded.
        """
        count = max(1, min(limits.STREAM_READ_MAX, ANSWERS_MAX_BYTES // self._largest))
        with translated():
            reply = await self._receiving.ask(
                *("BLMPOP", wait_s, 1, keys.answers(gateway), "LEFT", "COUNT", count),
                patience_s=wait_s + REPLY_MAX_S,
            )
        if not reply:
            return ()
        answers: list[bytes] = reply[1]
        self._largest = max(self._largest // 2, *map(len, answers))
        return answers

    async def invocation(self, invocation: str) -> InvocationRecord | None:
        with translated():
            data = await self._redis.get(keys.invocation(invocation))
        return wire.unpack(InvocationRecord, data) if data else None

    async def queued(self, invokers: Sequence[str]) -> int:
        """How many calls are on these invokers' streams, running ones included."""
        pipe = self._redis.pipeline(transaction=False)
        for invoker in invokers:
            pipe.xlen(keys.calls(invoker))
        with translated():
            return sum(await pipe.execute()) if invokers else 0

    # --- functions ------------------------------------------------------------------------------------------

    async def live(self) -> dict[tuple[str, str], tuple[int, bytes]]:
        """(tenant, function) → number of its live revision, its aliases; of all functions."""
        with translated():
            flat = await self._live(keys=[keys.TENANTS], args=[keys.functions(""), keys.function("", "")[:-1]])
        return {
            (tenant.decode(), name.decode()): (int(number), aliases)
            for tenant, name, number, aliases in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        }

    async def live_revision(self, tenant: str, name: str) -> tuple[bytes, ...] | None:
        """The packed revision in service, the aliases, the packed revisions that they name."""
        with translated():
            data = await self._live_revision(keys=[keys.function(tenant, name)])
        return tuple(data) if data else None

    async def revision(self, tenant: str, name: str, number: int) -> bytes | None:
        with translated():
            data: bytes | None = await self._redis.hget(keys.function(tenant, name), keys.revision_field(number))
        return data

    async def revisions(self, tenant: str, name: str) -> tuple[int, tuple[Revision, ...]]:
        """The live revision's number (0: no such function), and all revisions, newest first."""
        with translated():
            fields = await self._redis.hgetall(keys.function(tenant, name))
        found = [wire.unpack(Revision, data) for field, data in fields.items() if field.startswith(b"rev:")]
        return int(fields.get(b"live", 0)), tuple(sorted(found, key=lambda r: -r.number))

    async def sbom(self, tenant: str, name: str, number: int) -> bytes | None:
        """A revision's bill of materials, deflated; None when there is none."""
        with translated():
            found: bytes | None = await self._redis.hget(keys.function(tenant, name), keys.sbom_field(number))
        return found

    async def set_live(self, tenant: str, name: str, before: int, number: int) -> bool:
        """Put revision `number` in service; False when `before` is not live any more, or `number` not there."""
        with translated():
            moved = await self._set_live(
                keys=[keys.function(tenant, name), keys.CHANGES],
                args=[before, number, name, tenant, keys.FUNCTIONS_CHANGED, limits.CHANGES_MAX],
            )
        return bool(moved)

    async def remove(self, tenant: str, name: str) -> bool:
        """Remove a function; False when there is none."""
        with translated():
            removed = await self._remove(
                keys=[
                    keys.function(tenant, name),
                    keys.functions(tenant),
                    keys.TENANTS,
                    keys.logs(tenant, name),
                    keys.logs_size(tenant, name),
                    keys.CHANGES,
                ],
                args=[name, tenant, keys.FUNCTIONS_CHANGED, limits.CHANGES_MAX],
            )
        return bool(removed)

    async def changes(self, resync_s: float) -> AsyncGenerator[tuple[str, str] | None]:
        """Functions as they change; None when any may have: at first, after a lost connection, every resync_s.

        Read from a stream, so none is missed: where the last one that was read is gone, so may be others.
        """
        last, due = "", 0.0
        while True:
            try:
                if time.monotonic() >= due or (last and not await self._redis.xrange(keys.CHANGES, last, last)):
                    newest = await self._redis.xrevrange(keys.CHANGES, count=1)
                    last, due = newest[0][0].decode() if newest else "", time.monotonic() + resync_s
                    yield None
                wait_ms = int(min(FOLLOW_S, max(0.01, due - time.monotonic())) * 1000)
                found = await self._redis.xread({keys.CHANGES: last or "0-0"}, count=FOLLOWED_MAX, block=wait_ms)
                for entry, fields in found[0][1] if found else ():
                    last = entry.decode()
                    tenant, _, name = fields[b"f"].decode().partition(":")
                    yield tenant, name
            except (RedisError, OSError, TimeoutError):
                due = 0.0
                await asyncio.sleep(BACK_OFF_S)

    # --- sources and builds ---------------------------------------------------------------------------------

    async def has_source(self, tenant: str, digest: str) -> bool:
        """Is this archive there? If so it is kept for as long again."""
        with translated():
            return bool(await self._redis.expire(keys.source(tenant, digest), limits.BUILD_KEEP_S))

    async def put_source(self, tenant: str, digest: str, archive: bytes) -> bool:
        """Keep it; False when there is no room beside the others."""
        bounds = (limits.BUILD_KEEP_S, limits.SOURCES_MAX_BYTES, limits.SOURCES_MAX)
        with translated():
            return bool(
                await self._put_source(keys=[keys.source(tenant, digest), keys.SOURCES], args=[archive, *bounds])
            )

    async def request_build(self, request: BuildRequest, first: BuildEvent) -> None:
        """Queue a build, with its first event, in one step."""
        pipe = self._redis.pipeline(transaction=True)
        name = keys.build(request.tenant, request.build)
        pipe.xadd(name, {"e": wire.pack(first)})
        pipe.expire(name, limits.BUILD_KEEP_S)
        pipe.xadd(keys.BUILDS, {"b": wire.pack(request)})
        with translated():
            await pipe.execute()

    async def last_build_event(self, tenant: str, build: str) -> BuildEvent | None:
        """The newest event; None when there is no such build (any more)."""
        with translated():
            found = await self._redis.xrevrange(keys.build(tenant, build), count=1)
        return _entries(found, b"e", BuildEvent)[0][1] if found else None

    async def build_events(self, tenant: str, build: str, after: str, wait_ms: int) -> list[tuple[str, BuildEvent]]:
        """Events after the one with id `after`; waits up to `wait_ms` for the first."""
        return await self._follow(keys.build(tenant, build), b"e", BuildEvent, after, wait_ms)

    # --- logs -----------------------------------------------------------------------------------------------

    async def removed(self, tenant: str, name: str) -> int:
        """The last revision number of a function of this name that was removed; 0: there was none."""
        with translated():
            return int(await self._redis.hget(keys.function(tenant, name), "removed") or 0)

    async def add_log(self, tenant: str, name: str, entry: LogEntry) -> None:
        """Add to a log that is there; how long it may grow is the invokers' matter (scripts/complete.lua)."""
        with translated():
            await self._redis.xadd(keys.logs(tenant, name), {"l": wire.pack(entry)}, nomkstream=True)

    async def logs_since(self, tenant: str, name: str, start: str, count: int) -> list[tuple[str, LogEntry]]:
        """Up to `count` entries from stream id `start` on ("(ID": after it)."""
        with translated():
            found = await self._redis.xrange(keys.logs(tenant, name), start, "+", count=count)
        return _entries(found, b"l", LogEntry)

    async def logs_last(self, tenant: str, name: str, count: int) -> list[tuple[str, LogEntry]]:
        """The last `count` entries, in order; fewer when they are more than LOGS_MAX_BYTES together."""
        entries: list[tuple[str, LogEntry]] = []
        end, size = "+", 0
        while len(entries) < count and size < LOGS_MAX_BYTES:
            page = min(LOGS_PAGE, count - len(entries))
            with translated():
                found = await self._redis.xrevrange(keys.logs(tenant, name), end, count=page)
            entries += _entries(found, b"l", LogEntry)
            if len(found) < page:
                break
            end, size = f"({entries[-1][0]}", sum(len(entry.text) for _, entry in entries)
        return entries[::-1]

    async def logs_after(self, tenant: str, name: str, after: str, wait_ms: int) -> list[tuple[str, LogEntry]]:
        """Entries after stream id `after`; waits up to `wait_ms` for the first."""
        return await self._follow(keys.logs(tenant, name), b"l", LogEntry, after, wait_ms)

    async def _follow(self, key: str, field: bytes, kind: type[M], after: str, wait_ms: int) -> list[tuple[str, M]]:
        with translated():
            found = await self._redis.xread({key: after}, count=64, block=wait_ms)
        return _entries(found[0][1] if found else [], field, kind)


def _entries(found: list[tuple[bytes, dict[bytes, bytes]]], field: bytes, kind: type[M]) -> list[tuple[str, M]]:
    return [(entry.decode(), wire.unpack(kind, fields[field])) for entry, fields in found]
