"""Read first: the story of a call on this host. Lease → call → classify → meter → complete.

    read     entries come off the stream in batches, no more than can be run or queued sensibly
    lease    the pool starts the attempt on an instance, now or later, or refuses it
    call     one frame out; a callback, not a task, when the answer is there
    classify what the instance did becomes an Outcome
    meter    durations, memory, processor time, billed milliseconds
    complete answer, acknowledgement, usage and log go to Redis in one atomic step (completions.py, store.py)

An entry stays in `_open` until its completion is written, so that after a lost connection it is clear which pending
entries were never seen. What was pending when the process started was interrupted by a crash.

An invoker that is silent for too long loses its calls to others (gateway/durable/takeover.py). So no call begins once
the last heartbeat is limits.HELD_S old; when beats arrive again, Redis is asked what is still ours, and what is not is
let go, running or not. What it would have written the fence turns away in any case.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Protocol

from jiffy.contract import limits, meter
from jiffy.contract.clock import Clock
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Call, Outcome
from jiffy.contract.wire import unpack

from . import policy
from .attempt import Attempt, Known
from .classify import classify, unclassified
from .completions import Completion, Completions
from .handover import Handover
from .lease import Slot
from .pool import Pool
from .refusal import Refusal, log_line, platform
from .sandbox import Exit, Reply
from .streaming import Streams

log = logging.getLogger(__name__)

BLOCK_MS = 1_000  # a read without news; nothing waits for it to return
FULL_S = 0.002  # when the local queue is full: look again soon, calls end quickly
AGAIN_FIRST_S, AGAIN_MAX_S = 0.05, 1.0
REVISIONS_MAX = 4_096  # unpacked revisions kept by their bytes
LIVE_LOG_S = 0.25  # a call that runs longer has what it printed published meanwhile, so that logs can be followed
SETTLE_S = 0.02  # at the end: how often to look whether all is quiet
HELD_US = int(limits.HELD_S * 1e6)
SIZE_WEIGHT = 0.05  # of the newest payload in the mean size


class Queue(Protocol):
    """Where calls come from: store.Store."""

    async def read(self, count: int, block_ms: int) -> list[tuple[bytes, bytes]]: ...
    async def pending(self) -> list[tuple[bytes, bytes]]: ...
    async def interrupt(self) -> None: ...
    async def complete(self, batch: list[Completion]) -> None: ...
    async def receipts(self, wait_s: float) -> list[bytes]: ...


class Executor:
    """See the module."""

    def __init__(self, invoker: str, queue: Queue, pool: Pool, clock: Clock, handover: Handover) -> None:
        self._handover = handover
        self._invoker = invoker
        self._queue = queue
        self._pool = pool
        self._clock = clock  # all times in here are monotonic: only what is written is on the server's clock
        self._streams = Streams(queue, clock.monotonic_us)
        self._completions = Completions(queue.complete, self._written, self._given_up)
        self._open: dict[bytes, Attempt | None] = {}  # entry → its attempt, until its completion is written
        self._stuck: set[bytes] = set()  # entries whose completion the queue refuses: they stay pending there
        self._running: dict[bytes, Attempt] = {}  # in the order in which they began
        self._revisions: dict[bytes, Known] = {}
        self._mean_size = float(limits.PAYLOAD_MAX_BYTES)  # until it is known better, the first read is a small one
        self._sweeping = False
        self._held_until_us = 0  # by the last heartbeat
        self._lapsed = False  # it came too late: what is ours must be asked for
        self._stopping = False
        self._leaving = False  # whatever is ordered: this process ends
        self._quiet = asyncio.Event()  # `_open` is empty

    # --- read -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Take calls and run them until `stop`; then return when all that was read has ended and is written."""
        writer = asyncio.ensure_future(self._completions.run())
        try:
            await self._recover()
            await self._read()
            while self._open:
                self._quiet.clear()
                await self._quiet.wait()
        finally:
            writer.cancel()
            self._streams.close()

    async def _read(self) -> None:
        totals = self._pool.totals
        pause = AGAIN_FIRST_S
        lost = False
        while not self._stopping:
            if self._pool.draining and totals.calls:
                await self._hand_over([])
            lost = lost or self._lapsed
            count = policy.read_count(totals.calls, totals.payload_bytes, self._mean_size)
            if not count and not lost:
                await asyncio.sleep(FULL_S)
                continue
            try:
                if lost:
                    entries = await self._look_again()
                    lost = False
                else:
                    entries = await self._queue.read(count, BLOCK_MS)
            except PlatformError:
                lost = True
                await asyncio.sleep(pause)
                pause = min(AGAIN_MAX_S, pause * 2)
                continue
            pause = AGAIN_FIRST_S
            if self._pool.draining:
                await self._hand_over(entries)
            else:
                self.accept(entries)

    async def _look_again(self) -> list[tuple[bytes, bytes]]:
        """What was delivered to us and got lost on its way: pending there, and not known here."""
        seen = self._stuck.union(self._open)  # before we ask: one that is completed while we do may be in the answer
        running = list(self._running.values())
        pending = await self._queue.pending()
        if self._lapsed:
            self._let_go(running, {entry for entry, _ in pending})
        return [item for item in pending if item[0] not in seen]

    def renew(self, asked_us: int) -> None:
        """A heartbeat that was sent at `asked_us` has arrived: what is ours now stays ours for limits.HELD_S."""
        self._held_until_us = asked_us + HELD_US
        if not self._lapsed and self._clock.monotonic_us() <= self._pool.until_us:
            self._pool.until_us = self._held_until_us
            return
        if not self._lapsed:
            log.warning("no heartbeat arrived for over %g s: others may have been given calls of ours", limits.HELD_S)
        self._lapsed = True
        self._pool.spawn(self._queue.interrupt())

    def _let_go(self, running: list[Attempt], ours: set[bytes]) -> None:
        """Calls that others have been given end here; those that are still `ours` may begin again."""
        self._lapsed = False
        self._pool.until_us = self._held_until_us
        taken = [one for one in running if one.entry not in ours and one.entry in self._running]
        for one in taken:
            assert one.slot is not None  # as it runs
            self._pool.spawn(one.slot.instance.close())
        now_us = self._clock.monotonic_us()
        waiting = [attempt for caller in self._pool.take_waiting() if (attempt := self._open[caller.entry])]
        for one in waiting:
            if one.entry in ours:
                self._pool.lease(one, one.known.revision, now_us)
            else:
                del self._open[one.entry]
        gone = len(taken) + sum(one.entry not in ours for one in waiting)
        log.warning("heartbeats arrive again; %d calls were given to others meanwhile", gone)

    async def _hand_over(self, entries: list[tuple[bytes, bytes]]) -> None:
        """These, and calls that wait, go to other hosts where there are any; the others wait on and run here."""
        now_us = self._clock.monotonic_us()
        attempts = [attempt for caller in self._pool.take_waiting() if (attempt := self._open[caller.entry])]
        attempts += [attempt for item in entries if (attempt := self._unpack(*item, now_us))]
        stay = await self._handover.move(attempts)
        for attempt in attempts:
            del self._open[attempt.entry]
        for attempt in stay:
            self._open[attempt.entry] = attempt
            self._pool.lease(attempt, attempt.known.revision, now_us)

    def drain(self, on: bool) -> None:
        """Hand over, from now on, what has not begun; or take calls again as ever."""
        on = on or self._leaving
        if on != self._pool.draining:
            log.info("draining: calls go to other hosts" if on else "taking calls again")
            self._pool.draining = on
            self._pool.spawn(self._queue.interrupt())  # what waits is handed over when the read returns

    def accept(self, entries: list[tuple[bytes, bytes]]) -> None:
        """Have these entries run."""
        now_us = self._clock.monotonic_us()
        for entry, packed in entries:
            attempt = self._unpack(entry, packed, now_us)
            if attempt is not None:
                self._mean_size += (attempt.size - self._mean_size) * SIZE_WEIGHT
                self._pool.lease(attempt, attempt.known.revision, now_us)

    def _unpack(self, entry: bytes, packed: bytes, now_us: int) -> Attempt | None:
        if entry in self._open or entry in self._stuck:
            return None  # an answer that was read twice, over a lost connection
        try:
            call = unpack(Call, packed)
            known = self._revisions.get(call.revision) or self._learn(call.revision)
            attempt = Attempt(entry, call, known, now_us, self._clock.offset_us, self)
        except (PlatformError, TypeError, AttributeError) as exc:
            log.error("entry %r is no call: %s", entry, exc)
            self._open[entry] = None
            self._completions.add(Completion(entry, "", "", "", False, b"", b"", b"", ()))
            return None
        self._open[entry] = attempt
        if call.lost:
            attempt.call = call._replace(lost="")
            self._interrupted(attempt, now_us, f"the invoker {call.lost} was lost while it had this call", call.lost)
            return None
        return attempt

    def _learn(self, packed: bytes) -> Known:
        if len(self._revisions) >= REVISIONS_MAX:
            del self._revisions[next(iter(self._revisions))]
        known = self._revisions[packed] = Known.unpack(packed)
        return known

    # --- call -------------------------------------------------------------------------------------------------
    def begin(self, attempt: Attempt, slot: Slot, now_us: int) -> None:
        """The pool gives `attempt` the lease on `slot`."""
        call, known = attempt.call, attempt.known
        meta: dict[str, Any] = {"t": "call", "id": call.invocation, "timeout_ms": known.revision.timeout_ms}
        stream = None
        if call.stream and known.revision.stream:
            meta["stream"] = True
            stream = attempt.streamed(self._invoker, slot.instance, self._completions.add)
        future = slot.instance.call(meta, call.payload, known.timeout_s, stream)
        if future.done():  # the instance ended while it was idle, a moment ago: the call was never sent
            slot.pool.lost(slot)
            self._pool.lease(attempt, known.revision, now_us)
            return
        self._running[attempt.entry] = attempt
        if stream is not None:
            self._streams.begin(stream)
        if attempt.init_log:
            attempt.logbook().write(attempt.init_log)
        future.add_done_callback(partial(self._ended, attempt))
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(LIVE_LOG_S, self._sweep)

    def _ended(self, attempt: Attempt, future: asyncio.Future[Reply | Exit]) -> None:
        """The instance answered, or ended."""
        now_us = self._clock.monotonic_us()
        slot = attempt.slot
        assert slot is not None
        result = future.result()
        instance = slot.instance
        measured_us = now_us - attempt.started_us
        memory, cpu = instance.max_memory_bytes(), instance.cpu_us()
        try:
            ending = classify(result, attempt.known.revision, measured_us)
            if type(result) is Reply:
                size = attempt.size + len(ending.payload)  # what was streamed went out between the stamps
                held_us = instance.held(ending.duration_us, measured_us, size, cpu)
                if held_us != ending.duration_us:
                    ending = ending._replace(duration_us=held_us)
        except Exception:  # a hostile answer must never leave a call open, an instance leased or a run unbilled
            log.exception("the answer to %s can't be classified", attempt.call.invocation)
            ending = unclassified(measured_us)
        printed = instance.read_log()
        cpu, slot.cpu_us = max(0, cpu - slot.cpu_us), cpu
        del self._running[attempt.entry]
        if attempt.stream is not None:
            self._streams.end(attempt.stream)
        if type(result) is not Reply:
            slot.pool.lost(slot)
        elif ending.spent or result.last:
            slot.pool.discard(slot)
        else:
            slot.pool.release(slot, now_us, ending.duration_us)  # the next call goes out before this one is written
        if printed:
            attempt.print(slot, printed)
        outcome, payload = ending.outcome, ending.payload
        if outcome is Outcome.CRASH and self._pool.closing and type(result) is Exit and result.reason == "closed":
            outcome, payload = Outcome.PLATFORM, platform("the invoker was stopped while this call ran").error
        if ending.spent:  # the agent could not tell the log
            attempt.logbook().note(log_line(payload))
        if attempt.stream is not None and (why := attempt.stream.gone):
            attempt.logbook().note(
                b"[INFO] the stream was ended after %d bytes: %b" % (attempt.streamed_bytes, why.encode())
            )
        self._completions.add(
            attempt.completion(self._invoker, now_us, outcome, payload, ending.duration_us, memory, cpu)
        )

    def turned_away(self, attempt: Attempt, refusal: Refusal) -> None:
        """The pool refuses `attempt`: it never began, or its function could not be imported.

        A function that could not be started is billed: for how long that took, or one step if it was quick, or one of
        several calls that waited for it.
        """
        now_us = self._clock.monotonic_us()
        attempt.init_us = (attempt.init_us or refusal.init_us) if refusal.outcome.billable else 0
        attempt.cold = attempt.init_us > 0  # what never began is neither cold nor warm
        attempt.queue_us = attempt.waited_us(now_us)
        if refusal.log:
            attempt.logbook().write(refusal.log)
        if not refusal.outcome.billable:  # all that its log has
            attempt.logbook().note(f"RequestId: {attempt.call.invocation} {refusal.message}".encode())
        used_us = 0 if meter.Tariff(*attempt.call.tariff).bill_init else refusal.used_us  # init_us counts there
        self._completions.add(
            attempt.completion(
                *(self._invoker, now_us, refusal.outcome, refusal.error, used_us), retry_after_s=refusal.retry_after_s
            )
        )

    def _written(self, batch: list[Completion]) -> None:
        for item in batch:
            if not item.note:
                self._open.pop(item.entry, None)
            elif item.answer and (attempt := self._open.get(item.entry)) and attempt.stream is not None:
                attempt.stream.written(self._clock.monotonic_us())
        if not self._open:
            self._quiet.set()

    def _given_up(self, item: Completion) -> None:
        """It ran and can't be written: whatever comes, it must not run again."""
        if not item.note:
            self._stuck.add(item.entry)
            self._written([item])
        elif item.answer and (attempt := self._open.get(item.entry)) and attempt.stream is not None:
            attempt.stream.cancel("a piece of it could not be sent")

    # --- logs of calls that run -----------------------------------------------------------------------------------
    def _sweep(self) -> None:
        """Publish what calls have printed that have run for a while already."""
        now_us = self._clock.monotonic_us()
        for attempt in self._running.values():
            if now_us - attempt.started_us < LIVE_LOG_S * 1e6:
                break  # they are in the order in which they began
            self._publish(attempt, now_us)
        self._sweeping = bool(self._running)
        if self._sweeping:
            asyncio.get_running_loop().call_later(LIVE_LOG_S, self._sweep)

    def _publish(self, attempt: Attempt, now_us: int) -> None:
        assert attempt.slot is not None  # as it runs
        printed = attempt.slot.instance.read_log()
        if printed:
            attempt.print(attempt.slot, printed)
        logs = attempt.log.flush((now_us + attempt.offset_us) // 1000) if attempt.log else ()
        state = "running" if attempt.call.mode == "async" and not attempt.noted else ""
        if logs or state:
            attempt.noted = True
            self._completions.add(attempt.note(state, logs))

    # --- after a crash, and at the end --------------------------------------------------------------------------
    async def _recover(self) -> None:
        """End what the last process of this invoker left behind: it may have run, so nobody may believe it did not."""
        while True:
            try:
                entries = await self._queue.pending()
                break
            except PlatformError:
                await asyncio.sleep(AGAIN_MAX_S)
        now_us = self._clock.monotonic_us()
        for entry, packed in entries:
            attempt = self._unpack(entry, packed, now_us)
            if attempt is None:
                continue
            self._interrupted(attempt, now_us, "the invoker was restarted while this call ran", self._invoker)

    def _interrupted(self, attempt: Attempt, now_us: int, why: str, invoker: str) -> None:
        """It may have run on `invoker`, and nobody knows how far it got."""
        attempt.started_us = now_us
        self._completions.add(attempt.completion(invoker, now_us, Outcome.PLATFORM, platform(why).error))

    async def stop(self) -> None:
        """Read no more."""
        self._stopping = True
        await self._queue.interrupt()

    async def hand_over(self) -> bool:
        """Before the end: have other hosts run what has not begun here. False: there are none."""
        if not await self._handover.others():
            return False
        self._leaving = True
        self.drain(True)
        return True

    async def settled(self) -> None:
        """Wait until nothing runs or waits any more, written down or not."""
        while self._running or self._pool.totals.calls:  # noqa: ASYNC110 - an event would cost every call
            await asyncio.sleep(SETTLE_S)
