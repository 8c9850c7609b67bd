"""Which gateway serves which queue, or subscription to a topic: leases taken and renewed in Redis; a consumer runs for
each that is ours.

An edited or removed trigger's consumer takes no more messages at once, and its successor begins when the calls that
run have ended: a message is never with both. A gateway that dies loses its leases after LEASE_S, and the messages it
held come again to the next. What a consumer does: consumer.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from uuid_utils import uuid7

from gateway.catalog import Catalog, Function
from gateway.loops import CANCEL_AGAIN_S
from gateway.triggers.consumer import Call, Consumer, Held, Settings, Shape
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.notes import Notes
from gateway.triggers.shapes import FileShape, QueueShape, TopicShape, cloudevent
from gateway.triggers.sources.base import Source, SourceError
from gateway.triggers.sources.doors import Doors
from gateway.triggers.sources.topic import group_of
from gateway.triggers.store import LEASED, TriggerStore, fingerprint
from gateway.triggers.topics import Topics
from gateway.triggers.trigger import SERVED, Trigger, TriggerId, declared
from jiffy.contract import endings, places, queues, topics
from jiffy.contract.errors import JiffyError
from jiffy.contract.messages import Answer

RENEW_S = 0.5  # also how soon a pause is noticed
LEASE_S = 4.0
LAG_S = 2.0  # how often a queue is asked for its length
RETRY_MIN_S, RETRY_MAX_S = 0.5, 15.0  # before a queue that is not there is tried again

log = logging.getLogger("jiffy.gateway")

Invoke = Callable[[Function, str, str, bytes, int], Awaitable[Answer]]


@dataclass(slots=True)
class _Served:
    """A trigger that is ours."""

    trigger: Trigger
    consumer: Consumer | None = None
    stopping: bool = False
    task: asyncio.Task[None] = field(init=False)


class Where(NamedTuple):
    """Which gateway this is, where the platform's own topics are, and which folders may be watched."""

    gateway: str
    redis_url: str
    files: tuple[Path, ...] = ()


class Queues:
    """All queue triggers, as this gateway sees them."""

    def __init__(
        self,
        catalog: Catalog,
        store: TriggerStore,
        invoke: Invoke,
        own_topics: Topics,
        metrics: TriggerMetrics,
        doors: Doors,
        gateway: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._invoke = invoke
        self._metrics = metrics
        self._topics = own_topics
        self._doors = doors
        self._gateway = gateway
        self._now_ms = now_ms
        self._wanted: dict[TriggerId, Trigger] = {}
        self._served: dict[TriggerId, _Served] = {}
        self._gone: set[TriggerId] = set()
        self._wake = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None  # when the leases run out unless they are renewed

    def changed(self, tenant: str, function: str) -> None:
        """A function has another live revision, or none. For Catalog.on_change."""
        found = {t.id: t for t in declared(self._catalog.get(tenant, function)) if t.type in SERVED}
        gone = {key for key in self._wanted if key[:2] == (tenant, function)} - set(found)
        for key in gone:
            del self._wanted[key]
        self._gone = (self._gone | gone) - set(found)
        self._wanted |= found
        self._wake.set()

    def serving(self) -> list[Trigger]:
        """The triggers that have a consumer here."""
        return [served.trigger for served in self._served.values() if not served.task.done()]

    async def watch(self) -> None:
        """Serve what is ours, for as long as the gateway runs."""
        try:
            while True:
                try:
                    await self.look()
                except JiffyError as exc:
                    log.warning("queues wait: %s", exc.message)
                self._wake.clear()
                try:
                    async with asyncio.timeout(RENEW_S):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            await self._leave()

    async def look(self) -> None:
        """Renew the leases; begin and end consumers accordingly. Raises Unavailable."""
        for key in [key for key, served in self._served.items() if served.task.done()]:
            del self._served[key]
        wanted = list(self._wanted.values())
        asked = asyncio.get_running_loop().time()
        told = await self._store.lease([t.id for t in wanted], self._gateway, self._now_ms(), int(LEASE_S * 1000))
        self._hold(asked)
        ours = {trigger.id: trigger for trigger, became in zip(wanted, told, strict=True) if became == LEASED}
        for key, served in self._served.items():
            if not served.stopping and (key not in ours or fingerprint(ours[key]) != fingerprint(served.trigger)):
                self._stop(served)
        for key, trigger in ours.items():
            if key not in self._served:
                served = self._served[key] = _Served(trigger)
                served.task = asyncio.create_task(self._serve(served), name=f"queue {key}")
        for key in [key for key in self._gone if key not in self._served]:
            self._gone.discard(key)
            await self._topics.leave(key.tenant, group_of(key.function, key.name))
            await self._store.release(key, self._gateway)
            await self._store.forget(key)

    def _hold(self, asked: float) -> None:
        """Our leases last from when they were asked for; what can't be renewed is another gateway's from then on."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_at(asked + LEASE_S, self._expired)

    def _expired(self) -> None:
        for served in self._served.values():
            if not served.stopping:
                self._stop(served)

    def _stop(self, served: _Served) -> None:
        served.stopping = True
        if served.consumer is not None:
            served.consumer.stop()
        else:
            served.task.cancel()

    async def _leave(self) -> None:
        """The gateway stops: what runs may end, then others may have the queues."""
        tasks = [served.task for served in self._served.values()]
        for served in self._served.values():
            self._stop(served)
        going: set[asyncio.Task[None]] = set(tasks)
        wait_s = endings.GATEWAY_TRIGGERS_S
        while going:
            _, going = await asyncio.wait(going, timeout=wait_s)
            for task in going:
                task.cancel()
            wait_s = CANCEL_AGAIN_S
        try:
            for key in self._served:
                await self._store.release(key, self._gateway)
        except JiffyError:
            return  # they run out

    async def _serve(self, served: _Served) -> None:
        """One trigger: a consumer, and another after a pause when its queue was not there."""
        trigger, pause_s = served.trigger, RETRY_MIN_S
        notes = Notes(trigger.id, self._store, self._metrics)
        writing = asyncio.create_task(self._write(notes))
        try:
            while not served.stopping:
                try:
                    (state,) = await self._store.states([trigger.id])
                except JiffyError:  # Redis is gone for now
                    await asyncio.sleep(pause_s)
                    continue
                began = asyncio.get_running_loop().time()
                try:
                    await self._consume(served, state.since_ms, notes)
                except SourceError as exc:
                    _told(notes, f"the queue is not there: {exc}", str(exc))
                except Exception as exc:  # what a server of others answers must not end a trigger unseen
                    why = f"the queue can't be read: {type(exc).__name__}: {exc}"[:300]
                    log.warning("trigger %s of %s: %s", trigger.id, trigger.id.tenant, why, exc_info=exc)
                    _told(notes, why, why)
                if served.stopping:
                    return
                if asyncio.get_running_loop().time() - began > RETRY_MAX_S:
                    pause_s = RETRY_MIN_S
                served.consumer = None
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)
        finally:
            writing.cancel()
            await self._write_once(notes)

    async def _consume(self, served: _Served, since_ms: int, notes: Notes) -> None:
        """One consumer, until it is stopped or its queue is not there: raises SourceError."""
        trigger = served.trigger
        source = await asyncio.to_thread(self._doors.source, trigger, since_ms)
        served.consumer = Consumer(settings(trigger), source, self._caller(trigger, notes), notes)
        watching = asyncio.create_task(self._watch_lag(trigger, source, notes))
        try:
            await served.consumer.run()
        finally:
            watching.cancel()

    def _caller(self, trigger: Trigger, notes: Notes) -> Call:
        tenant, name, _ = trigger.id
        topic = trigger.options["publish_to"]

        async def call(event: bytes, batch: Sequence[Held]) -> Answer:
            function = await self._catalog.find(tenant, name)  # whichever revision is live by now
            answer = await self._invoke(function, str(uuid7()), trigger.label, event, self._now_ms())
            if topic and answer.outcome == "ok":
                causes = [cloudevent(held.message) for held in batch] if trigger.type == "topic" else []
                why = await self._topics.publish_result(tenant, topic, name, answer.invocation, answer.payload, causes)
                if why:
                    notes.note("failed", answer.invocation, why, 1)
            return answer

        return call

    async def _watch_lag(self, trigger: Trigger, source: Source, notes: Notes) -> None:
        while True:
            await asyncio.sleep(LAG_S)
            try:
                waiting = await source.lag()
            except Exception:  # noqa: S112 - the consumer meets the same, and tells it
                continue
            notes.state(lag=waiting, error="")
            self._metrics.waiting(trigger.id, waiting)

    async def _write(self, notes: Notes) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._write_once(notes)

    async def _write_once(self, notes: Notes) -> None:
        try:
            await notes.write(self._now_ms())
        except JiffyError as exc:
            log.warning("a trigger's counters are lost: %s", exc.message)


def _told(notes: Notes, line: str, error: str) -> None:
    """Why a queue is not served now, in the trigger's log and its state."""
    notes.state(error=queues.public(error))
    notes.note("failed", "", queues.public(line), 0)


def settings(trigger: Trigger) -> Settings:
    options = trigger.options
    dead_letter = f"{topics.DEAD}{trigger.id.function}.{trigger.id.name}"
    if trigger.type == "topic":
        shape: Shape = TopicShape(options["topic"], options["shape"], options["batch_size"])
    elif trigger.type == "files":
        shape = FileShape(places.parse(options["source"]).space)
    else:
        shape, dead_letter = QueueShape(queues.parse(options["source"]).name), options["dead_letter"]
    return Settings(
        shape=shape,
        batch_size=options.get("batch_size", 1),  # S3 tells of one file at a time
        batch_window_s=options.get("batch_window_s", 0.0),
        pattern=dict(options["filter"]),
        max_concurrency=options["max_concurrency"],
        ordered=options["ordered"],
        tries=options["tries"],
        retry_delay_s=options["retry_delay_s"],
        dead_letter=dead_letter,
    )
