"""The shelf of stems: started sandboxes without a function, per runtime, base layer and network.

It keeps some ready for every kind that a live function needs, more while cold starts come often, refills in the
background one at a time, starts at once for a call that finds none, and leaves a failing driver alone for a while.
Memory is no part of a kind: a stem gets its function's limits when it gets its function. What becomes of it is not its
business.

Most stems are anybody's. A tenant whose cold starts come often gets stems of its own, which a driver may start in a
cheaper way that they share with nobody else's (drivers/nursery.py); what is ready for anybody is then left to others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from jiffy.contract.errors import JiffyError, SandboxFailed
from jiffy.contract.messages import Layer, Revision

from . import policy
from .lease import Sandbox

log = logging.getLogger(__name__)

STARTS_AT_ONCE = 4  # more only make each of them slower on a small host
REFILL_AFTER_S = 0.1  # starting a stem takes a processor for 50 ms: the cold call that took one goes first
KINDS_MAX = 8  # kinds kept ready at a time; the least recently wanted one goes
ANYBODY = ""


class Kind(NamedTuple):
    """What makes one stem as good as another."""

    runtime: str
    base: Layer
    network: bool


def kind_of(revision: Revision) -> Kind:
    return Kind(revision.runtime, revision.layers[0], revision.network)


class Start(Protocol):
    """How a stem is started: for one tenant or for anybody, and whether a call waits for it."""

    def __call__(self, kind: Kind, *, tenant: str, awaited: bool) -> Awaitable[Sandbox]: ...


class Demand:
    """The calls that wait for a stem of one kind: tenants in turn, each tenant's own first come, first served."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[Sandbox]]] = {}  # whose turn is next is first

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, tenant: str) -> asyncio.Future[Sandbox]:
        future: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(future)
        return future

    def turns(self) -> Iterator[str]:
        """Whose turn it is, and whose then."""
        left = {tenant: len(queue) for tenant, queue in self._queues.items()}
        while left:
            for tenant in list(left):
                yield tenant
                left[tenant] -= 1
                if not left[tenant]:
                    del left[tenant]

    def pop(self, tenant: str = ANYBODY) -> asyncio.Future[Sandbox] | None:
        """Who is next, of this tenant or at all; None when nobody waits any more."""
        while tenant in self._queues or (tenant == ANYBODY and self._queues):
            name = tenant or next(iter(self._queues))
            queue = self._queues.pop(name)
            future = queue.popleft()
            if queue:
                self._queues[name] = queue
            if not future.done():
                return future
        return None


@dataclass(slots=True)
class Rate:
    """Of one tenant's cold starts, a second, as it was then."""

    a_second: float
    at_us: int

    def now(self, now_us: int) -> float:
        return policy.cold_rate(self.a_second, (now_us - self.at_us) / policy.SECOND_US)


@dataclass(slots=True, eq=False)
class _Shelf:
    ready: deque[Sandbox] = field(default_factory=deque)
    demand: Demand = field(default_factory=Demand)
    starting: list[str] = field(default_factory=list)  # for which tenants
    failures: int = 0
    rates: dict[str, Rate] = field(default_factory=dict)  # by tenant
    breeds: bool | None = None  # does the driver start one tenant's stems in a way of their own? As the last one told
    start_s: float = 0.1  # what one takes to start, lately: anybody's
    bred_s: float = 0.02  # and a tenant's own
    retry: asyncio.TimerHandle | None = None

    def first(self, tenant: str) -> Sandbox | None:
        """The first that is ready for `tenant` alone, or for anybody."""
        return next((stem for stem in self.ready if stem.tenant == tenant), None)

    def count(self, tenant: str) -> int:
        return sum(stem.tenant == tenant for stem in self.ready)

    def unserved(self) -> str | None:
        """The tenant of the first call that waits for a stem, and none is under way for it."""
        own = Counter(self.starting)
        for tenant in self.demand.turns():
            if own[tenant]:
                own[tenant] -= 1
            elif own[ANYBODY]:
                own[ANYBODY] -= 1
            else:
                return tenant
        return None


class Stems:
    """Ready stems by kind. `start` makes one; `keep` is how many of each kind stand ready at least."""

    def __init__(
        self,
        start: Start,
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
            kept = sum(count for _, count in self._kept(shelf))
            counts[kind.runtime] = counts.get(kind.runtime, 0) + kept
        return counts

    def bases(self) -> tuple[str, ...]:
        """Digests of the base layers that stems stand on, or are about to."""
        return tuple(sorted({kind.base.digest for kind in self._shelves}))

    def want(self, kind: Kind) -> None:
        """Keep stems of this kind ready from now on."""
        self._fill(kind, self._shelf(kind))

    async def take(self, kind: Kind, tenant: str) -> Sandbox:
        """A stem, nobody else's. Raises PlatformError when none could be started."""
        if self._closed:
            raise SandboxFailed("the invoker is stopping")
        shelf = self._shelf(kind)
        now_us = self._clock()
        rate = shelf.rates.setdefault(tenant, Rate(0.0, now_us))
        shelf.rates[tenant] = Rate(rate.now(now_us) + policy.cold_rate(0.0, 0.0, 1), now_us)
        stem = shelf.first(tenant) or (None if self._often(shelf, tenant) else shelf.first(ANYBODY))
        if stem is not None:
            shelf.ready.remove(stem)
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
            while (future := shelf.demand.pop()) is not None:
                future.set_exception(SandboxFailed("the invoker is stopping"))
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
        while self._starting < STARTS_AT_ONCE and (tenant := shelf.unserved()) is not None:
            self._begin(kind, shelf, tenant if self._often(shelf, tenant) else ANYBODY, awaited=True)
        if shelf.retry is None and not shelf.starting and self._starting < STARTS_AT_ONCE:
            short = next((tenant for tenant, count in self._kept(shelf) if shelf.count(tenant) < count), None)
            if short is not None:
                self._begin(kind, shelf, short, awaited=False)

    def _often(self, shelf: _Shelf, tenant: str) -> bool:
        """Does this tenant have stems of its own?"""
        breeds = not self._keep if shelf.breeds is None else shelf.breeds  # it is a refill that finds out
        rate = shelf.rates.get(tenant)
        return breeds and rate is not None and policy.comes_often(rate.now(self._clock()))

    def _kept(self, shelf: _Shelf) -> Iterator[tuple[str, int]]:
        """Tenant → how many stems stand ready for it; what stands ready for anybody is the last."""
        if not self._keep:
            return
        now_us, others = self._clock(), 0.0
        for tenant, rate in shelf.rates.items():
            a_second = rate.now(now_us)
            if shelf.breeds is not False and policy.comes_often(a_second):
                yield tenant, policy.stems_kept(1, a_second, shelf.bred_s)
            else:
                others += a_second
        yield ANYBODY, policy.stems_kept(self._keep, others, shelf.start_s)

    def tick(self) -> None:
        """Let go, one at a time, of what a rate that has fallen no longer asks for."""
        for shelf in self._shelves.values():
            now_us = self._clock()
            shelf.rates = {name: rate for name, rate in shelf.rates.items() if rate.now(now_us) > policy.RATE_MIN}
            kept = dict(self._kept(shelf))
            for stem in shelf.ready:
                if shelf.count(stem.tenant) > kept.get(stem.tenant, 0):
                    shelf.ready.remove(stem)
                    stem.on_closed = None
                    self._spawn(stem.close())
                    break

    def _begin(self, kind: Kind, shelf: _Shelf, tenant: str, *, awaited: bool) -> None:
        shelf.starting.append(tenant)
        self._starting += 1
        self._spawn(self._make(kind, shelf, tenant, awaited))

    async def _make(self, kind: Kind, shelf: _Shelf, tenant: str, awaited: bool) -> None:
        began_us = self._clock()
        try:
            stem = await self._start(kind, tenant=tenant, awaited=awaited)
        except Exception as exc:  # unforeseen or not: who waits hears of it, and the next try waits
            if not isinstance(exc, JiffyError):
                log.exception("a fault while a stem of %s started", kind.runtime)
                exc = SandboxFailed(f"a fault of the invoker: {exc!r}")
            self._failed(kind, shelf, tenant, exc)
        else:
            shelf.failures = 0
            self._learn(shelf, tenant, stem, (self._clock() - began_us) / policy.SECOND_US)
            await self._shelve(kind, shelf, stem)
        finally:
            shelf.starting.remove(tenant)
            self._starting -= 1
            for other, its in list(self._shelves.items()):  # whoever waited for a free start
                self._fill(other, its)

    @staticmethod
    def _learn(shelf: _Shelf, tenant: str, stem: Sandbox, took_s: float) -> None:
        if tenant != ANYBODY:
            shelf.breeds = stem.tenant == tenant
        if stem.tenant == ANYBODY:
            shelf.start_s += (took_s - shelf.start_s) / 4
        else:
            shelf.bred_s += (took_s - shelf.bred_s) / 4

    async def _shelve(self, kind: Kind, shelf: _Shelf, stem: Sandbox) -> None:
        if self._closed or self._shelves.get(kind) is not shelf:
            await stem.close()
        elif (future := shelf.demand.pop(stem.tenant)) is not None:
            future.set_result(stem)
        else:
            stem.on_closed = lambda _: self._died(kind, shelf, stem)
            shelf.ready.append(stem)

    def _failed(self, kind: Kind, shelf: _Shelf, tenant: str, exc: JiffyError) -> None:
        shelf.failures += 1
        if (future := shelf.demand.pop(tenant)) is not None:
            future.set_exception(exc)
        else:
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

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
