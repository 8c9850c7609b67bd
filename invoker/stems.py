"""The shelf of stems: started sandboxes without a function, per runtime, base layer and network.

It keeps some ready for every kind that a live function needs, more while cold starts come often, refills in the
background one at a time, starts at once for a call that finds none, and leaves a failing driver alone for a while.
Memory is no part of a kind: a stem gets its function's limits when it gets its function. What becomes of it is not its
business.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from jiffy.contract.errors import JiffyError, SandboxFailed
from jiffy.contract.messages import Layer, Revision

from . import policy
from .lease import Sandbox

log = logging.getLogger(__name__)

STARTS_AT_ONCE = 4  # more only make each of them slower on a small host
REFILL_AFTER_S = 0.1  # starting a stem takes a processor for 50 ms: the cold call that took one goes first
KINDS_MAX = 8  # kinds kept ready at a time; the least recently wanted one goes


class Kind(NamedTuple):
    """What makes one stem as good as another."""

    runtime: str
    base: Layer
    network: bool


def kind_of(revision: Revision) -> Kind:
    return Kind(revision.runtime, revision.layers[0], revision.network)


class Demand:
    """The calls that wait for a stem of one kind: tenants in turn, each tenant's own first come, first served."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[Sandbox]]] = {}  # whose turn is next is first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, tenant: str) -> asyncio.Future[Sandbox]:
        future: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(future)
        self._count += 1
        return future

    def pop(self) -> asyncio.Future[Sandbox]:
        tenant = next(iter(self._queues))
        queue = self._queues.pop(tenant)
        self._count -= 1
        future = queue.popleft()
        if queue:
            self._queues[tenant] = queue
        return future


@dataclass(slots=True, eq=False)
class _Shelf:
    ready: deque[Sandbox] = field(default_factory=deque)
    demand: Demand = field(default_factory=Demand)
    starting: int = 0
    failures: int = 0
    rate: float = 0.0  # cold starts per second,
    rated_us: int = 0  # as it was then
    start_s: float = 0.1  # what one takes to start, lately
    retry: asyncio.TimerHandle | None = None


class Stems:
    """Ready stems by kind. `start` makes one; `keep` is how many of each kind stand ready at least."""

    def __init__(
        self,
        start: Callable[[str, Layer, bool], Awaitable[Sandbox]],
        keep: int,
        clock: Callable[[], int],
        refill_after_s: float = REFILL_AFTER_S,
    ) -> None:
        self._start = start
        self._refill_after_s = refill_after_s
        self._keep = keep
        self._clock = clock
        self._shelves: dict[Kind, _Shelf] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = 0
        self._closed = False

    def ready(self) -> dict[str, int]:
        """Runtime → ready stems."""
        counts: dict[str, int] = {}
        for kind, shelf in self._shelves.items():
            counts[kind.runtime] = counts.get(kind.runtime, 0) + len(shelf.ready)
        return counts

    def wanted(self) -> dict[str, int]:
        """Runtime → how many are to stand ready."""
        counts: dict[str, int] = {}
        for kind, shelf in self._shelves.items():
            counts[kind.runtime] = counts.get(kind.runtime, 0) + self._kept(shelf)
        return counts

    def want(self, kind: Kind) -> None:
        """Keep stems of this kind ready from now on."""
        self._fill(kind, self._shelf(kind))

    async def take(self, kind: Kind, tenant: str) -> Sandbox:
        """A stem, nobody else's. Raises PlatformError when none could be started."""
        if self._closed:
            raise SandboxFailed("the invoker is stopping")
        shelf = self._shelf(kind)
        self._rate(shelf, starts=1)
        if shelf.ready:
            stem = shelf.ready.popleft()
            stem.on_closed = None
            asyncio.get_running_loop().call_later(self._refill_after_s, self._fill, kind, shelf)
            return stem
        future = shelf.demand.add(tenant)
        self._fill(kind, shelf)
        return await future

    async def close(self) -> None:
        """Close every stem, those that are just starting included."""
        self._closed = True
        for shelf in self._shelves.values():
            if shelf.retry is not None:
                shelf.retry.cancel()
            while shelf.demand:
                self._deliver(shelf, SandboxFailed("the invoker is stopping"))
        if self._tasks:
            await asyncio.wait(self._tasks)
        stems = [stem for shelf in self._shelves.values() for stem in shelf.ready]
        self._shelves.clear()
        for stem in stems:
            stem.on_closed = None
        await asyncio.gather(*(stem.close() for stem in stems), return_exceptions=True)

    def _shelf(self, kind: Kind) -> _Shelf:
        shelf = self._shelves.pop(kind, None) or _Shelf()
        self._shelves[kind] = shelf  # the most recently wanted is the last
        if len(self._shelves) > KINDS_MAX:
            oldest, old = next(iter(self._shelves.items()))
            if not old.demand and not old.starting:
                del self._shelves[oldest]
                for stem in old.ready:
                    stem.on_closed = None
                    self._spawn(stem.close())
        return shelf

    def _fill(self, kind: Kind, shelf: _Shelf) -> None:
        if self._closed or self._shelves.get(kind) is not shelf:
            return
        keep = 0 if shelf.retry is not None else self._kept(shelf)
        at_once = shelf.starting + STARTS_AT_ONCE - self._starting
        for _ in range(policy.stems_missing(keep, len(shelf.ready), shelf.starting, len(shelf.demand), at_once)):
            shelf.starting += 1
            self._starting += 1
            self._spawn(self._make(kind, shelf))

    def _rate(self, shelf: _Shelf, starts: int = 0) -> None:
        now_us = self._clock()
        shelf.rate = policy.cold_rate(shelf.rate, (now_us - shelf.rated_us) / policy.SECOND_US, starts)
        shelf.rated_us = now_us

    def _kept(self, shelf: _Shelf) -> int:
        return policy.stems_kept(self._keep, shelf.rate, shelf.start_s)

    def tick(self) -> None:
        """Let go, one at a time, of what a rate that has fallen no longer asks for."""
        for shelf in self._shelves.values():
            self._rate(shelf)
            if len(shelf.ready) > self._kept(shelf):
                stem = shelf.ready.popleft()
                stem.on_closed = None
                self._spawn(stem.close())

    async def _make(self, kind: Kind, shelf: _Shelf) -> None:
        began_us = self._clock()
        try:
            stem = await self._start(*kind)
        except Exception as exc:  # unforeseen or not: who waits hears of it, and the next try waits
            if not isinstance(exc, JiffyError):
                log.exception("a fault while a stem of %s started", kind.runtime)
                exc = SandboxFailed(f"a fault of the invoker: {exc!r}")
            self._failed(kind, shelf, exc)
        else:
            shelf.failures = 0
            shelf.start_s += ((self._clock() - began_us) / policy.SECOND_US - shelf.start_s) / 4
            await self._shelve(kind, shelf, stem)
        finally:
            shelf.starting -= 1
            self._starting -= 1
            for other, its in list(self._shelves.items()):  # whoever waited for a free start
                self._fill(other, its)

    async def _shelve(self, kind: Kind, shelf: _Shelf, stem: Sandbox) -> None:
        if self._closed or self._shelves.get(kind) is not shelf:
            await stem.close()
        elif not self._deliver(shelf, stem):
            stem.on_closed = lambda _: self._died(kind, shelf, stem)
            shelf.ready.append(stem)

    def _failed(self, kind: Kind, shelf: _Shelf, exc: JiffyError) -> None:
        shelf.failures += 1
        if not self._deliver(shelf, exc):
            log.warning("no stem of %s: %s", kind.runtime, exc.message)
        if shelf.retry is None and not self._closed:
            delay = policy.backoff_s(shelf.failures)
            shelf.retry = asyncio.get_running_loop().call_later(delay, self._retry, kind, shelf)

    def _retry(self, kind: Kind, shelf: _Shelf) -> None:
        shelf.retry = None
        self._fill(kind, shelf)

    def _died(self, kind: Kind, shelf: _Shelf, stem: Sandbox) -> None:
        if stem in shelf.ready:
            shelf.ready.remove(stem)
            self._fill(kind, shelf)

    @staticmethod
    def _deliver(shelf: _Shelf, what: Sandbox | JiffyError) -> bool:
        """Give it to the first call that waits; False when none does."""
        while shelf.demand:
            future = shelf.demand.pop()
            if not future.done():
                if isinstance(what, JiffyError):
                    future.set_exception(what)
                else:
                    future.set_result(what)
                return True
        return False

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
