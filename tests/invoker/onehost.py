"""One invoker over twins of sandboxes, with a real queue and the real clock, and what its gateway sees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from invoker.execute import Executor
from invoker.handover import Handover
from invoker.heartbeat import Pulse
from invoker.pool import Memory, Pool
from invoker.room import Room
from invoker.stems import Stems
from invoker.store import Store
from jiffy import primary
from jiffy.contract import keys
from jiffy.contract.clock import Clock
from jiffy.contract.messages import Answer, Call, InvocationRecord, LogEntry, Revision, Usage
from jiffy.contract.wire import pack, unpack

from .fakes import World, revision

CALLS = keys.calls("inv-1")


class OneHost:
    """One invoker over twins, as __main__ wires it, and a gateway's view of it."""

    def __init__(self, url: str, name: str = "inv-1") -> None:
        self.name = name
        self.redis = primary.client(url)
        self.world = World()
        self.url = url
        self._sent = 0
        self.slept_ns = 0  # for how long it was paused, as far as its clock can tell

    async def start(self) -> None:
        self.clock = clock = Clock(lambda: time.monotonic_ns() + self.slept_ns)
        self.store = Store(self.url, self.name, clock)
        await self.store.open()
        stems = Stems(self.world.start, 1, clock.monotonic_us)
        self.pool = Pool(stems, clock.monotonic_us, lambda: Memory(16_000, 8_000), Room(50))
        self.executor = Executor(self.name, self.store, self.pool, clock, Handover(self.store, self.name, clock))
        who = self.name, "host", "bwrap", False, "", ""
        self.pulse = Pulse(self.store, clock, self.pool, stems, who, self.executor.drain, self.executor.renew)
        self.running = asyncio.ensure_future(self.executor.run())
        self.now_ms: Callable[[], int] = lambda: clock() // 1000

    async def stop(self) -> None:
        await self.executor.stop()
        await self.pool.close()
        await self.running
        await self.store.close()

    async def crash(self) -> None:
        """As kill -9 does: nothing more is said to Redis."""
        self.running.cancel()
        await asyncio.wait((self.running,))
        await self.store.close()
        await self.pool.close()

    async def send(self, of: Revision | None = None, payload: bytes = b'{"n":1}', **changes: Any) -> Call:
        self._sent += 1
        made = of or revision()
        now_ms = int((await self.redis.time())[0]) * 1000
        call = Call(
            *(f"call-{self._sent}", 1, "sync", "gw", now_ms, now_ms + 10_000 + made.timeout_ms, "http"),
            *(pack(made), payload),
        )._replace(**changes)
        await self.redis.xadd(CALLS, {"c": pack(call)})
        if call.mode == "async":
            queued = InvocationRecord(call.invocation, "default", "hello", 1, "queued", now_ms, 0, None)
            await self.redis.set(keys.invocation(call.invocation), pack(queued))
        return call

    async def move(self, call: Call) -> int:
        """Put the next attempt on the stream, whenever it is due, as a gateway does; how long it should have waited."""
        async with asyncio.timeout(10):
            while (packed := await self.redis.hget(keys.LATER_CALLS, call.invocation)) is None:
                await asyncio.sleep(0.005)
        due_ms = await self.redis.zscore(keys.LATER, call.invocation)
        await self.redis.hdel(keys.LATER_CALLS, call.invocation)
        await self.redis.xadd(CALLS, {"c": packed})
        assert due_ms is not None
        return int(due_ms) - self.now_ms()

    async def answer(self) -> Answer:
        popped: Any = await self.redis.blpop([keys.answers("gw")], timeout=10)
        assert popped is not None, "no answer came"
        return unpack(Answer, popped[1])

    async def usages(self) -> list[Usage]:
        return [unpack(Usage, fields[b"u"]) for _, fields in await self.redis.xrange(keys.USAGE)]

    async def logs(self) -> list[LogEntry]:
        found = await self.redis.xrange(keys.logs("default", "hello"))
        return [unpack(LogEntry, fields[b"l"]) for _, fields in found]

    async def record(self, call: Call) -> InvocationRecord | None:
        packed: Any = await self.redis.get(keys.invocation(call.invocation))
        return unpack(InvocationRecord, packed) if packed else None

    async def record_when(self, call: Call, state: str) -> InvocationRecord:
        async with asyncio.timeout(10):
            while (record := await self.record(call)) is None or record.state != state:
                await asyncio.sleep(0.005)  # Redis tells nobody about a key that is set
        return record
