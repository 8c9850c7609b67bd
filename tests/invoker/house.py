"""A pool over twins, with a clock turned by hand."""

from __future__ import annotations

from invoker.keepalive import FixedTime
from invoker.pool import SLOW_TICKS, Memory, Pool
from invoker.room import Room
from invoker.stems import Kind, Stems
from jiffy.contract.messages import Revision

from .fakes import Clock, FakeCaller, FakeSandbox, World, revision, settle

HELLO = revision()


class House:
    """A pool over twins."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.world = World()
        self.start_s = 0.0  # what a stem takes
        self.memory = Memory(16_000, 8_000)
        self.stems = Stems(self._start, 2, self.clock, refill_after_s=0)
        self.pool = Pool(self.stems, self.clock, lambda: self.memory, Room(50), keepalive=FixedTime())

    async def _start(self, kind: Kind, *, tenant: str, awaited: bool) -> FakeSandbox:
        self.clock.pass_s(self.start_s)
        return await self.world.start(kind, tenant=tenant, awaited=awaited)

    def call(self, of: Revision = HELLO, latest_s: float = 10.0) -> FakeCaller:
        caller = FakeCaller(self.clock, latest_s)
        self.pool.lease(caller, of, self.clock())
        return caller

    async def calls(self, count: int, of: Revision = HELLO) -> list[FakeCaller]:
        callers = [self.call(of) for _ in range(count)]
        await settle(40)
        return callers

    async def tick(self, seconds: float) -> None:
        """Time passes, and enough ticks for everything that it calls for."""
        self.clock.pass_s(seconds)
        for _ in range(2 * SLOW_TICKS):
            self.pool.tick()
            await settle()
