"""An invoker without sandboxes: answers what comes on calls:{id}, as the real one would, from one function.

Tests give it `work`, which sees each Call and returns the Answer's changes; benchmarks run it as a process:
``python -m tests.gateway.fake_invoker URL``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvloop
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from gateway.loops import Loops
from jiffy import primary
from jiffy.contract import keys, limits, wire
from jiffy.contract.messages import Answer, BuilderBeat, Call, Heartbeat, InvocationRecord, Revision, Usage

Work = Callable[[Call], dict[str, Any] | None]  # what differs from an ok answer; None: no answer at all


def answer(call: Call, **changes: Any) -> Answer:
    plain = Answer(call.invocation, call.attempt, "ok", b'{"hello":"world"}', False, 1234, 100, 0, 250, 9_000_000)
    return plain._replace(**changes)


def heartbeat(invoker: str, at_ms: int, **changes: Any) -> Heartbeat:
    plain = Heartbeat(invoker, "host", at_ms, at_ms, "bwrap", True, 0, 0, 1000, 4096, {"python3.11": 2}, ())
    return plain._replace(**changes)


class FakeInvoker:
    """One invoker; `calls` are those it has seen."""

    def __init__(self, url: str, name: str = "inv-1", work: Work | None = None) -> None:
        self._url = url
        self.name = name
        self.calls: list[Call] = []
        self.work: Work = work or (lambda call: {})
        self.seen = asyncio.Event()
        self._redis: Any = primary.client(url)

    async def beat(self, **changes: Any) -> None:
        await self._redis.hset(
            keys.INVOKERS, self.name, wire.pack(heartbeat(self.name, await self.now_ms(), **changes))
        )

    async def now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds * 1000 + micros // 1000)

    async def run(self, keep: bool = True) -> None:
        stream = keys.calls(self.name)
        while True:
            try:
                with contextlib.suppress(ResponseError):
                    await self._redis.xgroup_create(stream, keys.GROUP, id="0", mkstream=True)
                while True:
                    found = await self._redis.xreadgroup(
                        keys.GROUP, self.name, {stream: ">"}, count=limits.STREAM_READ_MAX, block=500
                    )
                    if found:
                        await self._answer(stream, found[0][1], keep)
            except RedisError:
                await asyncio.sleep(0.05)

    async def _answer(self, stream: str, entries: list[tuple[bytes, dict[bytes, bytes]]], keep: bool) -> None:
        pipe = self._redis.pipeline(transaction=True)
        answers: dict[str, list[bytes]] = {}
        for _, fields in entries:
            call = wire.unpack(Call, fields[b"c"])
            if keep:
                self.calls.append(call)
                self.seen.set()
            changes = self.work(call)
            if changes is None:
                continue
            result = answer(call, **changes)
            if call.gateway:
                answers.setdefault(keys.answers(call.gateway), []).append(wire.pack(result))
            else:
                revision = wire.unpack(Revision, call.revision)
                record = InvocationRecord(
                    *(call.invocation, revision.tenant, revision.function, revision.number),
                    *("done", call.accepted_ms, call.attempt, result),
                )
                pipe.set(keys.invocation(call.invocation), wire.pack(record), ex=limits.RESULT_KEEP_S)
            if keep:
                pipe.xadd(keys.USAGE, {"u": wire.pack(_usage(call, result, self.name))})
        for key, packed in answers.items():
            pipe.rpush(key, *packed)
        ids = [entry for entry, _ in entries]
        pipe.xack(stream, keys.GROUP, *ids)
        pipe.xdel(stream, *ids)
        await pipe.execute()

    async def answer_again(self) -> None:
        """Answer all calls that were seen, as an invoker does whose completions were lost on the way."""
        async with primary.client(self._url) as redis:
            for call in self.calls:
                await redis.rpush(keys.answers(call.gateway), wire.pack(answer(call, **(self.work(call) or {}))))

    async def close(self) -> None:
        await self._redis.aclose()


def _usage(call: Call, result: Answer, invoker: str) -> Usage:
    revision = wire.unpack(Revision, call.revision)
    return Usage(
        *(call.invocation, call.attempt, revision.tenant, revision.function, revision.number, call.trigger, invoker),
        *(call.accepted_ms, result.outcome, result.cold, result.duration_us, result.billed_ms, result.init_us),
        *(result.queue_us, revision.memory_mb, result.max_memory_bytes, 900, len(call.payload), len(result.payload)),
    )


@contextlib.asynccontextmanager
async def running(
    url: str, name: str = "inv-1", work: Work | None = None, keep: bool = True
) -> AsyncIterator[FakeInvoker]:
    """A fake invoker that beats and answers until the block ends. `keep` remembers calls and writes usage records."""
    invoker = FakeInvoker(url, name, work)

    async def beats() -> None:
        while True:
            with contextlib.suppress(RedisError):
                await invoker.beat()
            await asyncio.sleep(0.5)

    await invoker.beat()
    loops = Loops(lambda: invoker.run(keep), beats)
    loops.start()
    try:
        yield invoker
    finally:
        await loops.stop()
        await invoker.close()


async def publish(url: str, name: str = "hello", number: int = 1, tell: bool = True, **changes: Any) -> Revision:
    """Put a revision in service, as the builder does."""
    plain = Revision(
        *("default", name, number, f"sha256:{number:064x}", "python3.11", (), "hello:handler", 128, 3000, 10),
        *(False, {}, (), 1_700_000_000_000),
    )
    revision = plain._replace(**changes)
    async with primary.client(url) as redis:
        field = keys.revision_field(number)
        await redis.hset(
            keys.function(revision.tenant, name), mapping={"live": number, "latest": number, field: wire.pack(revision)}
        )
        await redis.sadd(keys.functions(revision.tenant), name)
        await redis.sadd(keys.TENANTS, revision.tenant)
        if tell:
            await redis.xadd(keys.CHANGES, {"f": f"{revision.tenant}:{name}"})
    return revision


async def builder_beat(url: str) -> None:
    async with primary.client(url) as redis:
        seconds, micros = await redis.time()
        beat = BuilderBeat("b-1", "host", seconds * 1000 + micros // 1000, ("python3.11",), 0)
        await redis.hset(keys.BUILDERS, "b-1", wire.pack(beat))


COMPLETE = """
for i = 2, #ARGV, 2 do
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    redis.call('XDEL', KEYS[1], ARGV[i])
    redis.call('RPUSH', KEYS[2], ARGV[i + 1])
  end
end
return 1
"""


async def _benchmark(url: str) -> None:
    """Serve synchronous calls of one gateway as fast as can be, one script a batch, as the real invoker does."""
    await publish(url)
    invoker = FakeInvoker(url)
    stream = keys.calls(invoker.name)
    pool = ConnectionPool.from_url(url, protocol=2)
    line: Any = pool.connection_class(**pool.connection_kwargs | {"socket_timeout": None})

    async def ask(*command: Any) -> Any:
        await line.send_packed_command(line.pack_command(*command), check_health=False)
        return await line.read_response()

    async def beats() -> None:
        while True:
            await invoker.beat()
            await asyncio.sleep(0.5)

    beating = asyncio.create_task(beats())
    await ask("XGROUP", "CREATE", stream, keys.GROUP, "0", "MKSTREAM")
    sha = await ask("SCRIPT", "LOAD", COMPLETE)
    while not beating.done():
        read = ("COUNT", limits.STREAM_READ_MAX, "BLOCK", 500, "STREAMS", stream, ">")
        found = await ask("XREADGROUP", "GROUP", keys.GROUP, invoker.name, *read)
        if not found:
            continue
        entries = [(entry, wire.unpack(Call, fields[1])) for entry, fields in found[0][1]]
        done = [value for entry, call in entries for value in (entry, wire.pack(answer(call)))]
        await ask("EVALSHA", sha, 2, stream, keys.answers(entries[0][1].gateway), keys.GROUP, *done)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_benchmark(sys.argv[1]))
