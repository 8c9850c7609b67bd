"""Takes builds from the queue and sees each one through: fetch, make (build.py, in a thread), publish or fail.

Builds of different functions run side by side; those of one function run in the order of their requests, so that the
last deploy wins. Whatever a build does wrong ends that build alone. A builder that is told to stop finishes what it can
within its budget (contract/endings.py) and leaves the rest in the queue, for itself after a restart or for another one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from builder import image, retention
from builder.build import Builder
from builder.lock import Lock
from builder.part import Step
from builder.places import Places
from builder.processes import Processes
from builder.runtimes.python import interpreter
from builder.runtimes.python.interpreter import Interpreter
from builder.store import CLAIM_IDLE_S, Job, Store
from jiffy.contract import endings, limits
from jiffy.contract.errors import BuildFailed, JiffyError, PlatformError
from jiffy.contract.messages import BuilderBeat, BuildEvent, BuildRequest, Revision
from jiffy.contract.routes import parse

TAKEN_MAX = 8  # builds that one builder may hold; the rest stays for others
LOOKED_MAX = 64  # … or this many, while none of those held may have the place that is left
DELIVERIES_MAX = 5  # a build that has ended so many builders is not tried again
CANCEL_AGAIN_S = 0.2  # a cancelled task ends at once, or has missed it
TIDY_S = 600.0  # between looks for what may go: what is unused goes after an hour anyway
RETRY_S = 0.5  # between attempts to reach a queue that is away

log = logging.getLogger("jiffy.builder")


class Worker:
    """One builder process: a queue's consumer and a heart."""

    def __init__(
        self, store: Store, builder: Builder, processes: Processes, interpreters: Mapping[str, Interpreter]
    ) -> None:
        self._store = store
        self._builder = builder
        self._processes = processes
        self._interpreters = interpreters
        self._running: dict[str, asyncio.Task[None]] = {}  # stream entry → its build
        self._places = Places()
        self._turns: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._publishing = asyncio.Lock()  # a look at all routes, then a publication
        self._room = asyncio.Event()
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises Unavailable when the queue is not there at the start."""
        await self._store.open()
        await self._beat()
        loops = [asyncio.create_task(loop()) for loop in (self._take, self._claim, self._heart, self._tidy, self._warm)]
        stopped: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *loops[:4]], return_when=asyncio.FIRST_COMPLETED)
        for task in loops[:2]:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=endings.BUILDER_BUILDS_S)
        self._stopping = True
        self._processes.close()
        await _end([*self._running.values(), *loops, stopped])
        try:
            await self._store.close()
        except PlatformError as exc:
            log.warning("leaving unheard: %s", exc)
        for task in loops:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    # --- loops ----------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        first = True
        while True:
            try:
                for job in await (self._store.own() if first else self._store.take()):
                    self._start(job)
                first = False
            except PlatformError as exc:
                log.warning("%s", exc)
                await asyncio.sleep(RETRY_S)
                await self._reopen()
            self._room.clear()
            while len(self._running) >= (LOOKED_MAX if self._places.left else TAKEN_MAX):
                await self._room.wait()
                self._room.clear()

    async def _reopen(self) -> None:
        """A queue that came back empty has lost its consumer group."""
        try:
            await self._store.open()
        except PlatformError:
            return

    async def _claim(self) -> None:
        while True:
            await asyncio.sleep(CLAIM_IDLE_S / 2)
            try:
                for job in await self._store.claim():
                    self._start(job)
            except PlatformError:
                continue  # _take says so

    async def _heart(self) -> None:
        while True:
            await asyncio.sleep(limits.HEARTBEAT_S)
            try:
                await self._beat()
            except PlatformError:
                continue

    async def _beat(self) -> None:
        beat = BuilderBeat(
            builder=self._store.builder,
            host=socket.gethostname(),
            at_ms=0,
            runtimes=self._builder.runtimes,
            building=len(self._running),
        )
        await self._store.beat(beat, tuple(self._running))

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            try:
                pruned = await retention.prune(self._store, self._builder.layers, time.time)
            except PlatformError as exc:
                log.warning("nothing is pruned: %s", exc.message)
                continue
            except Exception:  # builds matter more, and what lies in the way now may not lie there next time
                log.exception("nothing is pruned")
                continue
            if pruned.revisions or pruned.swept.bytes:
                log.info("pruned %d revisions, %d bytes", len(pruned.revisions), pruned.swept.bytes)

    async def _warm(self) -> None:
        """Make the usual base layer before anyone waits for it, so that stems of it stand when the first call comes."""
        try:
            python = interpreter.choose("python3", self._interpreters)
            stored = await asyncio.to_thread(self._builder.base, python, _log_step)
            await self._store.tell_base(self._builder.layer_store, python.runtime, stored.layer)
            shelf = await asyncio.to_thread(self._builder.ship, (stored.layer,), _log_step)
            await self._store.tell_base(shelf, python.runtime, stored.layer)
        except Exception as exc:  # the first build will meet the same, and tell its author
            log.warning("no base layer yet: %s", exc)

    # --- one build ------------------------------------------------------------------------------------------------

    def _start(self, job: Job) -> None:
        if job.entry in self._running:
            return
        task = self._running[job.entry] = asyncio.create_task(self._see_through(job))
        task.add_done_callback(partial(self._done, job.entry))

    def _done(self, entry: str, _: asyncio.Task[None]) -> None:
        self._running.pop(entry, None)
        self._room.set()

    async def _see_through(self, job: Job) -> None:
        request = job.request
        async with self._turns[request.tenant, request.function], self._places.take(request.tenant):
            try:
                await self._build(job)
            except asyncio.CancelledError:
                raise
            except JiffyError as exc:
                await self._fail(job, exc)
            except Exception as exc:
                log.exception("build %s of %s broke the builder", request.build, request.function)
                await self._fail(job, PlatformError(f"the builder failed: {type(exc).__name__}: {exc}"))

    async def _build(self, job: Job) -> None:
        request = job.request
        if job.deliveries > DELIVERIES_MAX:
            raise BuildFailed(f"given up: {job.deliveries - 1} builders ended while they built it")
        archive = await self._store.source(request.tenant, request.source)
        progress = Progress(self._store, request)
        telling = asyncio.create_task(progress.send())
        try:
            locked = await self._lock(request) if request.locked else None
            revision = await asyncio.to_thread(self._builder.make, request, archive, progress.tell, locked)
            sbom = await asyncio.to_thread(self._builder.sbom, revision)
        finally:
            progress.end()
            await telling
        await self._publish(job, revision, sbom)

    async def _lock(self, request: BuildRequest) -> Lock:
        live = await self._store.live(request.tenant, request.function)
        if live is None:
            raise BuildFailed("there is no revision in service whose lock could be taken: deploy without --locked")
        return await asyncio.to_thread(self._builder.lock_of, live)

    async def _publish(self, job: Job, revision: Revision, sbom: str) -> None:
        event = BuildEvent("done", "", "publish", 0, 0, cached=False, bytes=0)
        async with self._publishing:
            if revision.routes:
                await self._check_routes(revision)
            published = await self._store.publish(job, revision, event, sbom)
        if published is None:
            log.warning("build %s was finished by another builder", job.request.build)
            return
        log.info("%s revision %d%s", revision.function, published.number, " (unchanged)" * published.unchanged)
        ref = image.reference(revision.tenant, revision.function, published.number)
        await asyncio.to_thread(self._builder.name, ref, revision.image)

    async def _check_routes(self, revision: Revision) -> None:
        table = await self._store.routes(revision.tenant)
        for text in revision.routes:
            owner = table.owner(parse(text))
            if owner is not None and owner != (revision.tenant, revision.function):
                raise BuildFailed(f"route {text!r} belongs to {owner[1]!r}; remove it there first")

    async def _fail(self, job: Job, error: JiffyError) -> None:
        if self._stopping:
            return  # not the build's fault: it stays in the queue
        event = BuildEvent(
            "failed", error.message, "", self._store.now_ms(), 0, cached=False, bytes=0, error_code=error.code
        )
        log.info("build %s of %s failed: %s", job.request.build, job.request.function, error.message)
        try:
            await self._store.fail(job, event)
        except PlatformError as exc:
            log.warning("build %s can't be ended, another try will: %s", job.request.build, exc)


def _log_step(step: Step) -> None:
    log.info("%s", step.text)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until they have ended: on Python 3.11 redis-py's time limits can swallow a cancellation."""
    going = set(tasks)
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=CANCEL_AGAIN_S)


class Progress:
    """Carries a build's steps from its thread to Redis, in order, several at a time when they come fast."""

    def __init__(self, store: Store, request: BuildRequest) -> None:
        self._store, self._request = store, request
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[BuildEvent | None] = asyncio.Queue()

    def tell(self, step: Step) -> None:
        """From any thread."""
        event = BuildEvent(
            "step", step.text, step.name, self._store.now_ms(), step.elapsed_ms, cached=step.cached, bytes=step.bytes
        )
        self._loop.call_soon_threadsafe(self._steps.put_nowait, event)

    def end(self) -> None:
        self._steps.put_nowait(None)

    async def send(self) -> None:
        """Until `end`. Progress that can't be told is lost: the build matters more."""
        ended = False
        while not ended:
            events = [await self._steps.get()]
            while not self._steps.empty():
                events.append(self._steps.get_nowait())
            ended = None in events
            told = [event for event in events if event is not None]
            try:
                if told:
                    await self._store.tell(self._request, told)
            except PlatformError as exc:
                log.warning("progress of %s not told: %s", self._request.build, exc)
