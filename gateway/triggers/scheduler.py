"""The story of a schedule, read first: declared → adopted → due → claimed together with its call → planned anew.

    catalog ──changed──▶ adopt: since when, and which tick was the last (Redis knows)
    heap of due times ──▶ step: all that are due, in batches ──▶ store.fire: claim and call in one atomic step
                                                              ──▶ the next tick, planned from the last one

Every gateway does this for every schedule, and the claim lets one through: none needs to be elected, and a gateway
that dies takes nothing with it. When a schedule ticks: jiffy.contract.schedules.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gateway.catalog import Catalog, Function
from gateway.durable.acceptance import Bounds
from gateway.triggers.calls import Calls
from gateway.triggers.firing import tick_event
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.store import Claim, Tick, TriggerStore
from gateway.triggers.trigger import Trigger, TriggerId, declared
from jiffy.contract.errors import JiffyError
from jiffy.contract.schedules import LATE_MAX_MS, Schedule, schedule

BATCH_MAX = 64  # ticks in one script: the first of many do not wait for the last to be packed
BUSY_AGAIN_MS = 250  # how often a tick that waits for the call before it asks again
LATER_MS = 1000  # after a failure
SLEEP_MAX_S = 60.0  # the clock may be set, and heartbeats correct ours
FRESH_MAX = 50  # schedules planned at one go: planning all of ten thousand would hold up calls for a second

log = logging.getLogger("jiffy.gateway")


@dataclass(slots=True)
class _Planned:
    trigger: Trigger
    function: Function
    schedule: Schedule
    last_ms: int
    tick_ms: int | None = None
    behind: bool = False  # ticks wait for calls that still run: they are not missed ones
    waits: bool = False  # its call has nowhere to go; that is logged once


class Scheduler:
    """All schedules of all functions, as this gateway sees them."""

    def __init__(
        self,
        catalog: Catalog,
        store: TriggerStore,
        calls: Calls,
        metrics: TriggerMetrics,
        now_ms: Callable[[], int],
        bounds: Bounds = Bounds(),  # noqa: B008
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._calls = calls
        self._metrics = metrics
        self._now_ms = now_ms
        self._bounds = bounds
        self._planned: dict[TriggerId, _Planned] = {}
        self._of: dict[tuple[str, str], set[TriggerId]] = {}  # a function's whose state is ours to forget
        self._heap: list[tuple[int, TriggerId, int]] = []  # due, whose, which tick
        self._changed: dict[tuple[str, str], bool] = {}  # whose triggers to look at; does the catalog know them yet?
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Schedules that are planned."""
        return len(self._planned)

    def changed(self, tenant: str, function: str) -> None:
        """A function has another live revision, or none. For Catalog.on_change."""
        self._changed[tenant, function] = True
        self._wake.set()

    async def watch(self) -> None:
        """Fire what is due, for as long as the gateway runs."""
        while True:
            try:
                due_ms = await self.step(self._now_ms())
            except JiffyError as exc:
                log.warning("schedules wait: %s", exc.message)
                due_ms = self._now_ms() + LATER_MS
            sleep_s = SLEEP_MAX_S if due_ms is None else min(SLEEP_MAX_S, (due_ms - self._now_ms()) / 1000)
            try:
                async with asyncio.timeout(max(0.0, sleep_s)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def step(self, now_ms: int) -> int | None:
        """Take in what changed and fire what is due; when there is more to do. Raises Unavailable."""
        self._wake.clear()
        for key, known in list(self._changed.items())[:FRESH_MAX]:
            if not known:
                await self._catalog.refresh(*key)
            await self._take_in(key, now_ms)
            self._changed.pop(key, None)
        while batch := self._due(now_ms):
            await self._fire(batch, now_ms)
            if self._changed:
                break
        if self._changed:
            return now_ms
        return self._heap[0][0] if self._heap else None

    # --- what there is --------------------------------------------------------------------------------------

    async def _take_in(self, key: tuple[str, str], now_ms: int) -> None:
        function = self._catalog.get(*key)
        found = {t.id: t for t in declared(function)}
        of = self._of.setdefault(key, set())
        for gone in of - set(found):
            self._planned.pop(gone, None)
            of.discard(gone)
            await self._store.forget(gone)
        of |= {trigger.id for trigger in found.values() if trigger.type == "webhook"}  # its state goes when it does
        for trigger in found.values():
            if trigger.type != "schedule" or function is None:
                continue
            since_ms, tick_ms = await self._store.adopt(trigger, now_ms)
            try:
                planned = _Planned(trigger, function, schedule(trigger.options, since_ms), tick_ms)
                self._plan(planned, now_ms)
            except Exception as exc:  # another release stored it: that must not end the schedules of all
                log.warning("the schedule %s can't be read: %r", trigger.id, exc)
                self._planned.pop(trigger.id, None)
                of.discard(trigger.id)
                continue
            self._planned[trigger.id] = planned
            of.add(trigger.id)
        if not of:
            del self._of[key]

    def _plan(self, planned: _Planned, now_ms: int, again_ms: int = 0) -> None:
        """Put the next tick on the heap; `again_ms` from now when this one must be asked for again."""
        if not again_ms:
            tick = planned.schedule.after(planned.last_ms) if planned.behind else None
            planned.behind = tick is not None and tick <= now_ms
            planned.tick_ms = tick if planned.behind else planned.schedule.due(planned.last_ms, now_ms)
        if planned.tick_ms is not None:
            delay_ms = planned.schedule.delay_ms(str(planned.trigger.id), planned.tick_ms)
            due_ms = max(planned.tick_ms + delay_ms, now_ms + again_ms)
            heapq.heappush(self._heap, (due_ms, planned.trigger.id, planned.tick_ms))

    # --- firing ---------------------------------------------------------------------------------------------

    def _due(self, now_ms: int) -> list[_Planned]:
        batch: dict[TriggerId, _Planned] = {}
        while self._heap and self._heap[0][0] <= now_ms and len(batch) < BATCH_MAX:
            _, key, tick_ms = heapq.heappop(self._heap)
            planned = self._planned.get(key)
            if planned is None or planned.tick_ms != tick_ms:
                continue  # it was planned anew
            recent = tick_ms >= now_ms - LATE_MAX_MS  # most are: to plan again would cost more than to fire
            if recent or planned.behind or planned.schedule.due(planned.last_ms, now_ms) == tick_ms:
                batch[key] = planned
            else:  # we slept through it
                self._plan(planned, now_ms)
        return list(batch.values())

    async def _fire(self, batch: list[_Planned], now_ms: int) -> None:
        made = [(planned, tick) for planned in batch if (tick := self._try_tick(planned, now_ms)) is not None]
        try:
            claims = await self._store.fire([tick for _, tick in made], now_ms, *self._bounds) if made else []
        except JiffyError:
            for planned, _ in made:
                self._plan(planned, now_ms, LATER_MS)
            raise
        for (planned, _), claim in zip(made, claims, strict=True):
            if self._planned.get(planned.trigger.id) is planned:
                self._claimed(planned, claim, now_ms)

    def _claimed(self, planned: _Planned, claim: Claim, now_ms: int) -> None:
        key = planned.trigger.id
        if claim.became in ("fired", "skipped"):
            self._metrics.count(key, claim.became)
            planned.waits = False
            if claim.became == "fired" and planned.tick_ms is not None:
                self._metrics.late(key, now_ms - planned.tick_ms)
        if claim.became == "changed":  # settings that we have not heard of yet, or none any more
            self._changed[key[:2]] = False
        elif claim.became == "full":  # asked for again until it is a missed one
            if not planned.waits:
                log.warning("the schedule %s waits: its tenant's backlog is full", key)
            planned.waits = True
            self._plan(planned, now_ms, LATER_MS)
        elif claim.became == "busy":
            planned.behind = True
            self._plan(planned, now_ms, BUSY_AGAIN_MS)
        else:
            planned.last_ms = max(claim.tick_ms, planned.last_ms)
            self._plan(planned, now_ms)

    def _try_tick(self, planned: _Planned, now_ms: int) -> Tick | None:
        """None when this one's call has nowhere to go now: it is asked for again later, and holds up no other."""
        try:
            tick = self._tick(planned, now_ms)
        except JiffyError as exc:
            if not planned.waits:
                log.warning("the schedule %s waits: %s", planned.trigger.id, exc.message)
            planned.waits = True
            self._plan(planned, now_ms, LATER_MS)
            return None
        return tick

    def _tick(self, planned: _Planned, now_ms: int) -> Tick:
        assert planned.tick_ms is not None
        trigger, tick_ms = planned.trigger, planned.tick_ms

        def event(invocation: str) -> bytes:
            return tick_event(trigger, invocation, tick_ms)

        envelope = self._calls.envelope(planned.function, trigger, event, now_ms)
        return Tick(trigger, tick_ms, envelope)
