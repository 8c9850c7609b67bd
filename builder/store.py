"""All that the builder says to Redis: builds taken, progress told, sources fetched, revisions published, heartbeats.

The one door to redis-py: its exceptions become here what jiffy.contract.outage says. Times in messages are on the Redis
server's clock, to which `beat` keeps the offset. What is built, and when, is decided in worker.py and build.py.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from jiffy import primary
from jiffy.contract import aliases, keys, limits, outage, wire
from jiffy.contract.clock import Clock
from jiffy.contract.errors import BuildFailed, PlatformError, Unavailable
from jiffy.contract.messages import (
    BuilderBeat,
    BuildEvent,
    BuildRequest,
    Call,
    Heartbeat,
    InvocationRecord,
    Layer,
    Revision,
)
from jiffy.contract.routes import RouteTable

# A build at work is claimed anew with every heartbeat, so an entry idle for so long has lost its builder.
CLAIM_IDLE_S = 2.5 * limits.SILENT_AFTER_S
_BLOCK_MS = 1000
_PAGE = 500  # calls looked at in one step
_TRIES = 20  # publishing against others who publish the same function

# KEYS 1 function hash   2 functions set   3 tenants set   4 builds stream   5 build's event stream   6 changes (stream)
# ARGV 1 entry id  2 group  3 live and 4 latest as they were read  5 new number, "" when nothing changed
#      6 packed Revision  7 its field  8 function name  9 tenant  10 channel  11 final event  12 seconds to keep it
#      13 bill of materials  14 its field  15 about how many changes the stream keeps
# Returns "raced" (read again), "lost" (someone else has finished this build) or "ok".
_PUBLISH = """
local was = redis.call('HMGET', KEYS[1], 'live', 'latest')
if (was[1] or '') ~= ARGV[3] or (was[2] or '') ~= ARGV[4] then return 'raced' end
if redis.call('XACK', KEYS[4], ARGV[2], ARGV[1]) == 0 then return 'lost' end
redis.call('XDEL', KEYS[4], ARGV[1])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'live', ARGV[5], 'latest', ARGV[5], ARGV[7], ARGV[6])
  redis.call('SADD', KEYS[2], ARGV[8])
  redis.call('SADD', KEYS[3], ARGV[9])
  redis.call('PUBLISH', ARGV[10], ARGV[9] .. ':' .. ARGV[8])
  redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[15], '*', 'f', ARGV[9] .. ':' .. ARGV[8])
end
redis.call('HSETNX', KEYS[1], ARGV[14], ARGV[13])
redis.call('XADD', KEYS[5], '*', 'e', ARGV[11])
redis.call('EXPIRE', KEYS[5], ARGV[12])
return 'ok'
"""

# KEYS 1 builds stream   2 build's event stream;  ARGV 1 entry id  2 group  3 final event  4 seconds to keep it
_FAIL = """
if redis.call('XACK', KEYS[1], ARGV[2], ARGV[1]) == 0 then return 'lost' end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '*', 'e', ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 'ok'
"""


# KEYS 1 function hash;  ARGV numbers of revisions. Returns those that were there and not live, which are no longer.
_TRIM = """
local live, gone, named = redis.call('HGET', KEYS[1], 'live'), {}, {}
for number in string.gmatch(redis.call('HGET', KEYS[1], 'aliases') or '', '(%d+):') do named[number] = true end
for _, number in ipairs(ARGV) do
  if number ~= live and not named[number] and redis.call('HDEL', KEYS[1], 'rev:' .. number, 'sbom:' .. number) > 0 then
    gone[#gone + 1] = tonumber(number)
  end
end
return gone
"""


class Job(NamedTuple):
    """A build taken from the queue: ours until it is published, failed, or claimed by another builder."""

    entry: str  # stream entry id
    request: BuildRequest
    deliveries: int  # how many times it was given to a builder, this time included


class Queued(NamedTuple):
    """An asynchronous call that has not ended."""

    invocation: bytes
    where: bytes  # keys.backlog's value


class Published(NamedTuple):
    number: int
    unchanged: bool


class Store:
    """One builder's connection to the platform's Redis."""

    def __init__(self, url: str, builder: str) -> None:
        # A blocking read answers within _BLOCK_MS; a server that is silent for ten times as long is not there.
        self._redis: Any = primary.client(url, socket_timeout=_BLOCK_MS / 100)
        self.builder = builder
        self._publish = self._redis.register_script(_PUBLISH)
        self._fail = self._redis.register_script(_FAIL)
        self._trim = self._redis.register_script(_TRIM)
        self._clock = Clock()

    def now_ms(self) -> int:
        """Epoch milliseconds on the Redis server's clock."""
        return self._clock() // 1000

    async def open(self) -> None:
        """Make the consumer group. Raises Unavailable when Redis doesn't answer."""
        with _translated():
            try:
                await self._redis.xgroup_create(keys.BUILDS, keys.BUILD_GROUP, id="0", mkstream=True)
            except ResponseError as exc:
                if "BUSYGROUP" not in str(exc):
                    raise

    async def tell_base(self, store: str, runtime: str, base: Layer) -> None:
        """Say which base layer functions of `runtime` will have, in the layer store of that id. Raises Unavailable."""
        with _translated():
            await self._redis.hset(keys.bases(store), runtime, wire.pack(base))
            await self._redis.publish(keys.BASES_CHANGED, store)

    async def beat(self, beat: BuilderBeat, entries: Iterable[str]) -> None:
        """Say that we live, and that `entries` are still being built; learn the server's time."""
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.eval(outage.BEAT, 1, keys.BUILDERS, self.builder, wire.pack(beat._replace(at_ms=self.now_ms())))
                held: list[Any] = list(entries)
                if held:
                    pipe.xclaim(keys.BUILDS, keys.BUILD_GROUP, self.builder, 0, held, justid=True)
                asked = time.monotonic_ns()
                (seconds, micros), *_ = await pipe.execute()
        self._clock.set(seconds * 1_000_000 + micros, asked, time.monotonic_ns())

    async def close(self, *, leave: bool = True) -> None:
        """Take our heartbeat away, so that nobody counts on us."""
        try:
            if leave:
                with _translated():
                    await self._redis.hdel(keys.BUILDERS, self.builder)
        finally:
            await self._redis.aclose()

    # --- the queue ----------------------------------------------------------------------------------------------

    async def own(self) -> list[Job]:
        """What we took before a restart and never finished."""
        with _translated():
            answer = await self._redis.xreadgroup(keys.BUILD_GROUP, self.builder, {keys.BUILDS: "0"}, count=100)
            return await self._jobs(answer[0][1] if answer else [], again=True)

    async def claim(self) -> list[Job]:
        """What builders took that have fallen silent."""
        with _translated():
            answer = await self._redis.xautoclaim(
                keys.BUILDS, keys.BUILD_GROUP, self.builder, int(CLAIM_IDLE_S * 1000), count=1
            )
            return await self._jobs(answer[1], again=True)

    async def take(self) -> list[Job]:
        """The next build, or nothing after a second."""
        with _translated():
            answer = await self._redis.xreadgroup(
                keys.BUILD_GROUP, self.builder, {keys.BUILDS: ">"}, count=1, block=_BLOCK_MS
            )
            return await self._jobs(answer[0][1] if answer else [], again=False)

    async def _jobs(self, entries: list[Any], *, again: bool) -> list[Job]:
        jobs = []
        for entry, fields in entries:
            try:
                request = wire.unpack(BuildRequest, (fields or {})[b"b"])
            except (KeyError, PlatformError):  # deleted meanwhile, or nothing that we could ever build
                await self._redis.xack(keys.BUILDS, keys.BUILD_GROUP, entry)
                await self._redis.xdel(keys.BUILDS, entry)
                continue
            deliveries = 1
            if again:
                pending = await self._redis.xpending_range(keys.BUILDS, keys.BUILD_GROUP, entry, entry, 1)
                deliveries = pending[0]["times_delivered"] if pending else 1
            jobs.append(Job(entry.decode(), request, deliveries))
        return jobs

    async def source(self, tenant: str, digest: str) -> bytes:
        """The uploaded archive. Raises BuildFailed when it has expired."""
        with _translated():
            found = await self._redis.getex(keys.source(tenant, digest), ex=limits.BUILD_KEEP_S)
        if found is None:
            raise BuildFailed(f"source {digest} is not here (any more): upload it again")
        return bytes(found)

    async def tell(self, request: BuildRequest, events: Iterable[BuildEvent]) -> None:
        """Add progress to a build's events."""
        name = keys.build(request.tenant, request.build)
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for event in events:
                    pipe.xadd(name, {"e": wire.pack(event)})
                pipe.expire(name, limits.BUILD_KEEP_S)
                await pipe.execute()

    # --- ends ---------------------------------------------------------------------------------------------------

    async def fail(self, job: Job, event: BuildEvent) -> bool:
        """End a build with its final event. False: someone else has ended it."""
        with _translated():
            told = await self._fail(
                keys=[keys.BUILDS, keys.build(job.request.tenant, job.request.build)],
                args=[job.entry, keys.BUILD_GROUP, wire.pack(event), limits.BUILD_KEEP_S],
            )
        return bool(told == b"ok")

    async def publish(self, job: Job, revision: Revision, event: BuildEvent, sbom: str) -> Published | None:
        """Make `revision` (number 0) the live one, unless it is; end the build with `event`, completed.

        `sbom` is kept beside it. One atomic step: number, live, announcement, acknowledgement and final event together
        or not at all. None: someone else has ended this build.
        """
        name = keys.function(revision.tenant, revision.function)
        for _ in range(_TRIES):
            with _translated():
                live, latest = await self._redis.hmget(name, ["live", "latest"])
                current = await self._redis.hget(name, keys.revision_field(int(live))) if live else None
            unchanged = current is not None and _same(wire.unpack(Revision, current), revision)
            number = int(live) if unchanged else int(latest or 0) + 1
            numbered = revision._replace(number=number, created_ms=self.now_ms())
            final = event._replace(revision=number, unchanged=unchanged, at_ms=self.now_ms())
            told = await self._try(job, numbered, final, (live or b"", latest or b""), zlib.compress(sbom.encode()))
            if told != b"raced":
                return Published(number, unchanged) if told == b"ok" else None
        raise Unavailable(f"{revision.function} is being published by others all the time; deploy again")

    async def _try(
        self, job: Job, revision: Revision, event: BuildEvent, was: tuple[bytes, bytes], sbom: bytes
    ) -> bytes:
        with _translated():
            told = await self._publish(
                keys=[
                    keys.function(revision.tenant, revision.function),
                    keys.functions(revision.tenant),
                    keys.TENANTS,
                    keys.BUILDS,
                    keys.build(job.request.tenant, job.request.build),
                    keys.CHANGES,
                ],
                args=[
                    *(job.entry, keys.BUILD_GROUP, *was, "" if event.unchanged else revision.number),
                    *(wire.pack(revision), keys.revision_field(revision.number), revision.function, revision.tenant),
                    *(keys.FUNCTIONS_CHANGED, wire.pack(event), limits.BUILD_KEEP_S),
                    *(sbom, keys.sbom_field(revision.number), limits.CHANGES_MAX),
                ],
            )
        return bytes(told)

    async def routes(self, tenant: str) -> RouteTable:
        """The live routes of all of a tenant's functions."""
        table = RouteTable()
        with _translated():
            names = sorted(n.decode() for n in await self._redis.smembers(keys.functions(tenant)))
            for revision in await self._live(tenant, names):
                table.replace(tenant, revision.function, revision.routes)
        return table

    async def live(self, tenant: str, name: str) -> Revision | None:
        """The revision in service."""
        with _translated():
            return next(iter(await self._live(tenant, [name])), None)

    async def _live(self, tenant: str, names: list[str]) -> list[Revision]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hget(keys.function(tenant, name), "live")
            numbers = await pipe.execute()
        async with self._redis.pipeline(transaction=False) as pipe:
            for name, number in zip(names, numbers, strict=True):
                if number is not None:
                    pipe.hget(keys.function(tenant, name), keys.revision_field(int(number)))
            packed = await pipe.execute()
        return [wire.unpack(Revision, data) for data in packed if data is not None]

    # --- what is needed (retention.py) --------------------------------------------------------------------------

    async def beats(self) -> list[Heartbeat]:
        """Of all invokers, those that have fallen silent included: their sandboxes may still run."""
        with _translated():
            return [wire.unpack(Heartbeat, data) for data in (await self._redis.hgetall(keys.INVOKERS)).values()]

    async def bases(self, stores: Iterable[str]) -> set[str]:
        """Digests of the usual base layers in these layer stores."""
        with _translated():
            packed = [one for store in stores for one in (await self._redis.hgetall(keys.bases(store))).values()]
        return {wire.unpack(Layer, data).digest for data in packed}

    async def functions(self) -> dict[str, list[str]]:
        """Tenant → names of its functions."""
        with _translated():
            tenants = sorted(name.decode() for name in await self._redis.smembers(keys.TENANTS))
            members = {tenant: await self._redis.smembers(keys.functions(tenant)) for tenant in tenants}
        return {tenant: sorted(name.decode() for name in names) for tenant, names in members.items()}

    async def revisions(self, tenant: str, name: str) -> tuple[int, dict[int, Revision]]:
        """The live revision's number (0: the function is gone), and all revisions by their numbers."""
        with _translated():
            fields = await self._redis.hgetall(keys.function(tenant, name))
        found = [wire.unpack(Revision, data) for field, data in fields.items() if field.startswith(b"rev:")]
        return int(fields.get(b"live", 0)), {revision.number: revision for revision in found}

    async def named(self, tenant: str, name: str) -> set[int]:
        """Revisions that have an alias."""
        with _translated():
            text = await self._redis.hget(keys.function(tenant, name), "aliases") or b""
        return {number for alias in aliases.read(text.decode()).values() for number in alias.revisions}

    async def queued(self, tenant: str) -> dict[tuple[str, str, int], Queued]:
        """(tenant, function, revision) of every asynchronous call of a tenant that has not ended → one of them.

        A synchronous one ends long before anything that it may need is swept.
        """
        found: dict[tuple[str, str, int], Queued] = {}
        cursor = 0
        with _translated():
            while True:
                cursor, page = await self._redis.hscan(keys.backlog(tenant), cursor, count=_PAGE)
                packed = await self._redis.mget([keys.invocation(one.decode()) for one in page]) if page else []
                for (invocation, where), data in zip(page.items(), packed, strict=True):
                    if data is not None:
                        one = wire.unpack(InvocationRecord, data)
                        found[one.tenant, one.function, one.revision] = Queued(invocation, where)
                if not cursor:
                    return found

    async def layers_of(self, queued: Queued) -> tuple[Layer, ...]:
        """The layers of a queued call's revision; none when it has begun to move meanwhile."""
        with _translated():
            if queued.where == b"later":
                packed = await self._redis.hget(keys.LATER_CALLS, queued.invocation)
            else:
                stream, _, entry = queued.where.rpartition(b" ")
                there = await self._redis.xrange(stream, entry, entry)
                packed = there[0][1].get(b"c") if there else None
        return wire.unpack(Revision, wire.unpack(Call, packed).revision).layers if packed else ()

    async def trim(self, tenant: str, name: str, numbers: Iterable[int]) -> tuple[int, ...]:
        """Forget revisions, unless one is live or has an alias by now; those that are gone."""
        with _translated():
            return tuple(await self._trim(keys=[keys.function(tenant, name)], args=list(numbers)))


def _same(live: Revision, made: Revision) -> bool:
    """Is there nothing new? The same content in another layer store is: other hosts can run it."""
    return live.digest == made.digest and live.store in ("", made.store)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as exc:
        raise outage.error(exc, answered=isinstance(exc, ResponseError)) from exc
