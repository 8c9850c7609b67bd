"""In-memory twins of what the pool's neighbours are: a sandbox, its instances, a caller, and a clock one turns by hand.

A twin behaves as the real one does towards the invoker; what it does *as a function* is a plain callable from the
event to a Reply, an Exit or a future of either.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from invoker.instance import Pieces
from invoker.lease import Slot
from invoker.refusal import Refusal
from invoker.sandbox import Exit, Loaded, Reply
from invoker.stems import Kind
from jiffy.contract.messages import Heartbeat, Layer, Revision

Answer = Reply | Exit | asyncio.Future[Reply | Exit]
Function = Callable[[bytes], Answer]

BASE = Layer("base", "sha256:" + "b" * 64, 1)


def echo(payload: bytes) -> Answer:
    return Reply(True, payload, 50)


def revision(function: str = "hello", number: int = 1, **changes: Any) -> Revision:
    values: dict[str, Any] = {
        "tenant": "default",
        "function": function,
        "number": number,
        "digest": f"sha256:{number:064}",
        "runtime": "python3.11",
        "layers": (BASE, Layer("code", "sha256:" + "c" * 64, 1)),
        "handler": "hello:handler",
        "memory_mb": 128,
        "timeout_ms": 3000,
        "max_instances": 100,
        "network": False,
        "env": {},
        "routes": (),
        "created_ms": 0,
    }
    return Revision(**(values | changes))


def beat(at_ms: int = 0) -> Heartbeat:
    return Heartbeat("inv-1", "host", at_ms, 0, "bwrap", False, 0, 0, 9, 9, {"python3.11": 2}, ())


class Clock:
    """Microseconds that pass when told to."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.us

    def pass_s(self, seconds: float) -> None:
        self.us += int(seconds * 1e6)


class FakeInstance:
    def __init__(self, sandbox: FakeSandbox) -> None:
        self.sandbox = sandbox
        self.on_exit: Callable[[Any], None] | None = None
        self.closed = False
        self.calls = 0
        self.on_processor = False
        self.future: asyncio.Future[Reply | Exit] | None = None
        self.ended: Exit | None = None  # it ended while idle, and nobody has heard of it yet
        self.printed = b""
        self.pieces: Pieces | None = None
        self.told: list[str] = []  # of a stream: taken, cancel
        self.size = 0  # that explains what its last call took beside its stamps
        self.log_dropped_bytes = 0

    def call(
        self, meta: dict[str, Any], payload: bytes, timeout_s: float, pieces: Pieces | None = None
    ) -> asyncio.Future[Reply | Exit]:
        assert not self.closed and not self.sandbox.closed and not self.sandbox.frozen
        loop = asyncio.get_running_loop()
        self.calls += 1
        future: asyncio.Future[Reply | Exit] = loop.create_future()
        if self.ended is not None:
            future.set_result(self.ended)
            return future
        self.pieces = pieces
        answer = self.sandbox.world.function(payload)
        if isinstance(answer, asyncio.Future):
            future = answer
        else:
            loop.call_soon(future.set_result, answer)
        self.future = future
        return future

    def credit(self, total: int) -> None:
        self.told.append(f"taken {total}")

    def cancel(self) -> None:
        self.told.append("cancel")

    def read_log(self) -> bytes:
        text, self.printed = self.printed, b""
        return text

    def held(self, claimed_us: int, measured_us: int, size: int, cpu_us: int) -> int:
        self.size = size
        return claimed_us

    def max_memory_bytes(self) -> int:
        return 1_000_000

    def cpu_us(self) -> int:
        return 7

    def runnable(self) -> bool:
        return self.on_processor

    async def close(self) -> None:
        self.closed = True
        if self.future is not None and not self.future.done():
            self.future.set_result(Exit("closed", 0, 0))

    def die(self) -> None:
        self.closed = True
        assert self.on_exit is not None
        self.on_exit(self)


class FakeSandbox:
    forks = True

    def __init__(self, world: World) -> None:
        self.world = world
        self.on_closed: Callable[[Any], None] | None = None
        self.revision: Revision | None = None
        self.instances: list[FakeInstance] = []
        self.fork_error: Exception | None = None
        self.frozen = False
        self.closed = False
        self.tenant = ""

    async def specialise(self, revision: Revision) -> Loaded:
        assert self.revision is None, "a stem is given one function only"
        self.revision = revision
        await (self.world.importing or self.world.step)()
        if isinstance(self.world.loading, Exception):
            raise self.world.loading
        return self.world.loading

    async def fork(self) -> FakeInstance:
        assert not self.frozen
        await self.world.step()
        if (error := self.fork_error or self.world.fork_error) is not None:
            raise error
        self.instances.append(FakeInstance(self))
        return self.instances[-1]

    async def freeze(self) -> None:
        self.frozen = True

    async def thaw(self) -> None:
        self.frozen = False

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            for instance in self.instances:
                await instance.close()
            if self.on_closed is not None:
                self.on_closed(self)

    def memory_bytes(self) -> int:
        return 10_000_000


@dataclass
class World:
    """What every sandbox of a test does: `function` answers, `loading` is how imports end, errors are raised."""

    function: Function = echo
    loading: Loaded | Exception = Loaded(1000, None, b"")  # noqa: RUF009 - a tuple
    importing: Callable[[], Awaitable[None]] | None = None  # what happens meanwhile
    fork_error: Exception | None = None
    start_error: Exception | None = None
    sandboxes: list[FakeSandbox] = field(default_factory=list)
    starts: int = 0
    starting: Callable[[], Awaitable[object]] | None = None  # what happens meanwhile
    breeds: bool = False  # a tenant's own stems are its alone

    async def start(self, kind: Kind, *, tenant: str, awaited: bool) -> FakeSandbox:
        self.starts += 1
        await self.step()
        if self.starting is not None:
            await self.starting()
        if self.start_error is not None:
            raise self.start_error
        self.sandboxes.append(FakeSandbox(self))
        self.sandboxes[-1].tenant = tenant if self.breeds else ""
        return self.sandboxes[-1]

    async def step(self) -> None:
        await asyncio.sleep(0)

    @property
    def used(self) -> list[FakeSandbox]:
        """Sandboxes that were given a function and live."""
        return [sandbox for sandbox in self.sandboxes if sandbox.revision and not sandbox.closed]

    @property
    def alive(self) -> int:
        """Instances."""
        return sum(not instance.closed for sandbox in self.used for instance in sandbox.instances)


class FakeCaller:
    """A call that only notes what became of it. It holds its lease until `end`."""

    numbers = itertools.count(1)

    def __init__(self, clock: Clock, latest_s: float = 10.0) -> None:
        self.number = next(self.numbers)
        self.entry = b"%d" % self.number
        self.arrived_us = clock()
        self.latest_start_us = clock() + int(latest_s * 1e6)
        self.size = 10
        self.cold = False
        self.init_us = 0
        self.init_log = b""
        self.slot: Slot | None = None
        self.refusal: Refusal | None = None
        self.over = False
        self._clock = clock

    def start(self, slot: Slot, now_us: int) -> None:
        assert self.slot is None and self.refusal is None
        slot.instance.calls += 1
        self.slot = slot

    def refuse(self, refusal: Refusal) -> None:
        assert self.slot is None and self.refusal is None
        self.refusal = refusal

    @property
    def running(self) -> bool:
        return self.slot is not None and not self.over

    def end(self) -> None:
        """The function answered."""
        assert self.running and self.slot is not None
        self.over = True
        now_us = self._clock()
        self.slot.pool.release(self.slot, now_us, now_us - self.slot.since_us)


async def settle(times: int = 12) -> None:
    """Let every task that is ready go on until it waits for something real."""
    for _ in range(times):
        await asyncio.sleep(0)
