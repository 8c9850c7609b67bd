"""The warm set of this host: every revision's pool, and what they share.

It finds the pool of a call's revision, turns out what is idle when room or memory is needed, has those who wait for
room asked in turn, and keeps time. How one revision's calls find instances: revision_pool.py. Every decision:
policy.py. Limits and fairness: room.py. Ready sandboxes: stems.py.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from jiffy.contract.messages import FunctionStatus, Revision

from . import policy
from .figures import Figures
from .keepalive import DEFAULT, POLICIES, KeepAlive
from .layers import Layers
from .lease import Caller, Sandbox
from .revision_pool import RevisionPool
from .room import Room, Scope
from .stems import Stems, kind_of
from .waiting import Totals

log = logging.getLogger(__name__)

TICK_S = 0.1  # how late an expiry, a freeze or an end may come
SLOW_TICKS = 10  # pools with nothing awake are looked at every so many ticks
NUDGE_S = policy.STALL_US / 1e6  # waiting calls are thought about again, whatever happens or does not
FRESH_INSTANCE_MB = 16  # what a new instance takes until the host's free memory is read again

Key = tuple[str, str, int]  # tenant, function, revision number


class Memory(NamedTuple):
    """The host's, in MiB."""

    total_mb: int
    free_mb: int


class Counts(NamedTuple):
    """Of a function's calls."""

    calls: int = 0
    cold: int = 0
    waited_us: int = 0

    def plus(self, pool: RevisionPool) -> Counts:
        return Counts(self.calls + pool.calls, self.cold + pool.cold_calls, self.waited_us + pool.waited_us)


class Pool:
    """See the module. `memory` reads the host's memory; `clock` gives microseconds and is never set."""

    def __init__(
        self,
        stems: Stems,
        clock: Callable[[], int],
        memory: Callable[[], Memory],
        room: Room,
        *,
        keep: policy.Keep = policy.Keep(),  # noqa: B008 - frozen
        keepalive: KeepAlive | None = None,
        warm_mb: int = 0,
        layers: Layers | None = None,
    ) -> None:
        """`layers`: whom to ask for a revision's before it is given a sandbox."""
        self._layers = layers
        self.keep = keep
        self.room = room
        self.totals = Totals()
        self.figures = Figures()
        self.closing = False
        self.until_us = sys.maxsize  # no call begins later: by then others may have been given it (execute.renew)
        self.draining = False  # calls are handed to other hosts; what can't be is still served
        self.memory = memory()
        self.keepalive = keepalive or POLICIES[DEFAULT]()
        self.warm_mb = warm_mb or policy.warm_budget_mb(self.memory.total_mb)
        self.now = clock
        self._stems = stems
        self._read_memory = memory
        self._pools: dict[Key, RevisionPool] = {}
        self._hungry: set[RevisionPool] = set()
        self._nudge: asyncio.TimerHandle | None = None
        self._asking = False
        self._live: dict[tuple[str, str], int] = {}
        self._counts: dict[tuple[str, str], Counts] = {}  # of pools that are gone
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticks = 0
        self._evicted_at = -1

    # --- calls ------------------------------------------------------------------------------------------------
    def lease(self, caller: Caller, revision: Revision, now_us: int) -> None:
        """Start `caller` on an instance of `revision`: at once, when there is one, or never."""
        pool = self._pools.get((revision.tenant, revision.function, revision.number))
        if pool is None:
            pool = self._add(revision)
        pool.lease(caller, now_us)

    def _add(self, revision: Revision) -> RevisionPool:
        name = revision.tenant, revision.function
        pool = self._pools[*name, revision.number] = RevisionPool(revision, self)
        if not self._live.get(name):  # else a change is told, forwards and backwards alike
            self.set_live(*name, revision)
        pool.serve(self._live[name] == revision.number)
        return pool

    def set_live(self, tenant: str, function: str, revision: Revision | None) -> None:
        """Another revision serves the function now, or none does: it was removed."""
        number = revision.number if revision else 0
        changed = self._live.get((tenant, function)) != number
        self._live[tenant, function] = number
        if revision:
            self._stems.want(kind_of(revision))
        warm = False
        for key, pool in self._pools.items():
            if key[:2] == (tenant, function):
                pool.serve(key[2] == number)
                warm = warm or bool(pool.boxes)
        if revision and changed and (warm or revision.min_instances):
            pool = self._pools.get((tenant, function, number)) or self._add(revision)
            pool.refill(self.now(), max(1, pool.floor))  # before the old one's instances go, and before it is called

    def take_waiting(self) -> list[Caller]:
        """All calls that have not begun; they are the caller's to see to now."""
        return [pool.waiting.pop() for pool in self._pools.values() for _ in range(len(pool.waiting))]

    # --- what revision pools ask of the host --------------------------------------------------------------------
    def admit(self, pool: RevisionPool) -> str:
        """Count one more instance of `pool` in; or say which limit forbids it. What is idle elsewhere makes room."""
        revision, room = pool.revision, self.room
        full = room.full(revision)
        if room.short and (full is None or full.scope is not Scope.FUNCTION) and room.behind(revision):
            room.miss(revision, Scope.HOST)
            self.figures.decisions["limit_share"] += 1
            return "others who have fewer instances on this host wait for one, too (fair share)"
        while (full := room.full(revision)) is not None:
            if not _evict([other for other in self._pools.values() if _may_make_room(other, pool, full.scope)]):
                room.miss(revision, full.scope)
                self.figures.decisions[f"limit_{full.scope.value}"] += 1
                return full.why
        if not policy.fits(self.memory.free_mb, policy.reserve_mb(self.memory.total_mb), revision.memory_mb):
            self._free_memory(pool)
            self.figures.decisions["limit_memory"] += 1
            return f"this host has too little free memory for another {revision.memory_mb} MB"
        room.enter(revision)
        self.memory = self.memory._replace(free_mb=self.memory.free_mb - FRESH_INSTANCE_MB)
        return ""

    def _free_memory(self, pool: RevisionPool) -> None:
        """End what is idle elsewhere, one at a time: what it frees is seen at the next tick."""
        if self._evicted_at != self._ticks:
            self._evicted_at = self._ticks
            _evict([other for other in self._pools.values() if other is not pool])

    def ended(self, pool: RevisionPool) -> None:
        """One instance fewer."""
        self.room.leave(pool.revision)
        if self.room.short and not self._asking:
            self._asking = True
            asyncio.get_running_loop().call_soon(self._ask)

    def _ask(self) -> None:
        """There is room, and somebody waits for it."""
        self._asking = False
        self.nudge(look_for_stall=False)

    def hungry(self, pool: RevisionPool) -> None:
        """Calls wait in `pool`: think about it again soon, whatever happens."""
        self._hungry.add(pool)
        if self._nudge is None:
            self._nudge = asyncio.get_running_loop().call_later(NUDGE_S, self._rung)

    def _rung(self) -> None:
        """A ring that comes late says that this process got no processor, and nothing about the functions."""
        loop = asyncio.get_running_loop()
        late_s = loop.time() - self._nudge.when() if self._nudge else 0.0
        self._nudge = None
        self.nudge(look_for_stall=late_s < NUDGE_S / 5)

    def nudge(self, *, look_for_stall: bool) -> None:
        """Think again about every pool in which calls wait."""
        self._hungry = {pool for pool in self._hungry if pool.waiting}
        self.room.ask_again()
        now_us = self.now()
        for pool in sorted(self._hungry, key=lambda pool: self.room.need(pool.revision)):
            pool.scale(now_us, look_for_stall=look_for_stall)
            self.hungry(pool)

    async def stem(self, revision: Revision) -> Sandbox:
        """A stem for this revision, whose layers are here then. Raises PlatformError."""
        if self._layers is not None:
            await self._layers.ready(revision.layers)
        return await self._stems.take(kind_of(revision), revision.tenant)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a fault in the pool", exc_info=task.exception())

    # --- time -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Keep time until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Do what time alone calls for."""
        now_us = self.now()
        self._ticks += 1
        slow = self._ticks % SLOW_TICKS == 0
        self.memory = self._read_memory()
        if slow:
            self._stems.tick()
            self._shrink(now_us)
        for key, pool in list(self._pools.items()):
            if not (slow or pool.awake):
                continue
            pool.tick(now_us)
            if slow and pool.empty:
                self._drop(key, pool)

    def _shrink(self, now_us: int) -> None:
        """End what sleeps and is worth least, where all that sleeps takes more than it may, or the host is short."""
        asleep = [(pool, box) for pool in self._pools.values() for box in pool.boxes if box.asleep is not None]
        for pool, box in asleep:
            pool.warmth.look(box.last_used_us, now_us)
        short_mb = policy.reserve_mb(self.memory.total_mb) - self.memory.free_mb
        over_mb = max(short_mb, sum(box.size_mb for _, box in asleep) - self.warm_mb)
        if over_mb <= 0:
            return
        asleep.sort(key=lambda pair: (pair[0].warmth.value, pair[1].last_used_us))
        for pool, box in asleep[: policy.EVICTIONS_AT_ONCE]:
            if over_mb > 0 and pool.frozen() is not None:
                over_mb -= box.size_mb
                pool.evict(instances=0)

    def _drop(self, key: Key, pool: RevisionPool) -> None:
        del self._pools[key]
        self._counts[key[:2]] = self._counts.get(key[:2], Counts()).plus(pool)

    # --- what is told about it ----------------------------------------------------------------------------------
    @property
    def running(self) -> int:
        return sum(pool.running for pool in self._pools.values())

    @property
    def instances(self) -> int:
        return self.room.instances

    @property
    def begun(self) -> int:
        """How many calls have begun, or failed to, since the process did."""
        return sum(p.calls for p in self._pools.values()) + sum(counts.calls for counts in self._counts.values())

    def kept(self) -> list[RevisionPool]:
        """Those of which instances are to be ready at all times."""
        return [pool for pool in self._pools.values() if pool.floor]

    def statuses(self) -> tuple[FunctionStatus, ...]:
        """One row per revision that has something warm or waiting here."""
        rows = []
        for (tenant, function, number), pool in self._pools.items():
            counts = (self._counts.get((tenant, function), Counts()) if pool.live else Counts()).plus(pool)
            frozen = sum(len(box.asleep) for box in pool.boxes if box.asleep)
            rows.append(
                FunctionStatus(
                    *(tenant, function, number),
                    idle=len(pool.idle),
                    running=pool.running,
                    frozen=frozen,
                    waiting=len(pool.waiting),
                    memory_bytes=sum(box.sandbox.memory_bytes() for box in pool.boxes),
                    calls=counts.calls,
                    cold_calls=counts.cold,
                    waited_us=counts.waited_us,
                    min_instances=pool.floor,
                )
            )
        return tuple(rows)

    # --- the end ------------------------------------------------------------------------------------------------
    def drain(self) -> None:
        """Start nothing new; what is warm goes on serving what waits."""
        self.closing = True
        for pool in self._pools.values():
            pool.drain()

    async def close(self) -> None:
        """Refuse what still waits, and end every sandbox. Calls that still run are told by their instances."""
        self.drain()
        if self._nudge is not None:
            self._nudge.cancel()
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await self._stems.close()
        while self._tasks:
            await asyncio.wait(self._tasks)


def _may_make_room(other: RevisionPool, pool: RevisionPool, scope: Scope) -> bool:
    if other is pool:
        return False
    theirs, ours = other.revision, pool.revision
    same_tenant = theirs.tenant == ours.tenant
    same_function = same_tenant and theirs.function == ours.function
    return {Scope.FUNCTION: same_function, Scope.TENANT: same_tenant, Scope.HOST: True}[scope]


def _evict(pools: list[RevisionPool]) -> bool:
    """End the least valuable idle instance of these pools, sleeping ones first; False when none is idle."""
    idle = [(worth, n) for n, pool in enumerate(pools) if (worth := pool.worth()) is not None]
    if not idle:
        return False
    pools[min(idle)[1]].evict()
    return True
