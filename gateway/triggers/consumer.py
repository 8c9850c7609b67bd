"""The story of a queue's messages: take → filter → batch → call → done, again or buried. One consumer, one trigger.

    take ──▶ gathering (up to batch_size, for batch_window_s) ──▶ a call per batch, at most max_concurrency
    ok ──▶ done, in one acknowledgement per round     failed ──▶ again after a pause ──▶ after `tries`: a dead letter

No more is taken than can run: what is gathered, running or waiting for its next try counts against
max_concurrency × batch_size. A message is acknowledged after its call, so that a gateway's death makes it come again:
at least once. Who consumes: queues.py; the queue itself: sources/.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from gateway.triggers.sources.base import Message, Source, SourceError
from jiffy.contract import limits, patterns
from jiffy.contract.errors import JiffyError
from jiffy.contract.messages import Answer

TAKE_MAX = limits.STREAM_READ_MAX
WAIT_S = 0.5  # of one look at an empty queue; an edit or a pause is noticed at least so often
PAUSE_MAX_S = 300.0
PLATFORM_PAUSE_S = 1.0  # when the platform could not run a call: no try of the message's
PAYLOAD_ROOM_BYTES = 4096  # what an event has around its messages


class Held(NamedTuple):
    """A message that is out, and how many tries it has had, this one included."""

    message: Message
    tries: int


class Shape(Protocol):
    """What messages look like to patterns and to the function; shapes.py has them."""

    def seen(self, message: Message) -> Mapping[str, Any]: ...

    def event(self, batch: Sequence[Held], now_ms: int) -> bytes: ...


Call = Callable[[bytes, Sequence[Held]], Awaitable[Answer]]  # an event, and what it was made of


class Settings(NamedTuple):
    """A trigger's options, as contract.triggers has them."""

    shape: Shape
    batch_size: int
    batch_window_s: float
    pattern: dict[str, Any]
    max_concurrency: int
    ordered: bool
    tries: int
    retry_delay_s: float
    dead_letter: str


class Notes(Protocol):
    """What is told of what happens; notes.py is one."""

    def note(self, kind: str, invocation: str, text: str, count: int) -> None: ...


class Consumer:
    """Serves one trigger until it is stopped. `call` runs the function with an event."""

    def __init__(self, settings: Settings, source: Source, call: Call, notes: Notes) -> None:
        self._settings = settings
        self._source = source
        self._call = call
        self._notes = notes
        self._most = settings.max_concurrency * settings.batch_size
        self._out = 0  # messages taken and not settled
        self._ready: list[Held] = []  # taken, or due again
        self._since = 0.0  # when the first of _ready came
        self._done: list[Message] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Event()  # something ended
        self._acks = asyncio.Event()
        self._stopping = False
        self._broken: BaseException | None = None

    async def run(self) -> None:
        """Consume until `stop`, or until the queue is not there: raises SourceError."""
        try:
            await self._source.open(self._most)
            settling = asyncio.create_task(self._settle())
            settling.add_done_callback(self._broke)
            try:
                await self._consume()
            except asyncio.CancelledError:  # their messages come again
                for call in self._calls:
                    call.cancel()
                raise
            finally:
                self._stopping = True
                if self._calls:
                    await asyncio.wait(self._calls)
                self._acks.set()
                await asyncio.gather(settling, return_exceptions=True)
        finally:
            with contextlib.suppress(SourceError):
                await self._source.close()
        if self._broken is not None:
            raise self._broken

    def stop(self) -> None:
        """Take no more; `run` returns when the calls that run have ended."""
        self._stopping = True
        self._turn.set()

    # --- taking ---------------------------------------------------------------------------------------------

    async def _consume(self) -> None:
        settings = self._settings
        while not self._stopping and self._broken is None:
            self._start_calls()
            room = self._most - self._out
            full = self._ready and len(self._calls) >= settings.max_concurrency
            if room <= 0 or full or (settings.ordered and self._out):
                await self._turn_comes()
                continue
            wait_s = self._window_left() if self._ready else WAIT_S
            for message in await self._source.take(min(room, TAKE_MAX), max(0.001, wait_s)):
                self._out += 1
                if settings.pattern and not self._wanted(message):
                    self._acknowledge([message])
                else:  # whoever was killed while it ran tried too; yet nothing is given up without a last try
                    self._enqueue(Held(message, min(message.tries, settings.tries)))

    def _wanted(self, message: Message) -> bool:
        try:
            return patterns.matches(self._settings.pattern, self._settings.shape.seen(message))
        except patterns.TooMuch as exc:
            self._notes.note("failed", "", f"message {message.id} is passed over: filtering it takes {exc}", 1)
            return False

    def _enqueue(self, held: Held) -> None:
        if not self._ready:
            self._since = time.monotonic()
        self._ready.append(held)

    def _window_left(self) -> float:
        return self._settings.batch_window_s - (time.monotonic() - self._since)

    async def _turn_comes(self) -> None:
        self._turn.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self._turn.wait()

    # --- calling --------------------------------------------------------------------------------------------

    def _start_calls(self) -> None:
        """Make calls of what is ready: full batches, and a partial one when its window is over or nothing can come."""
        while self._ready and not self._stopping and len(self._calls) < self._settings.max_concurrency:
            full = len(self._ready) >= self._settings.batch_size or self._out >= self._most
            if not full and self._window_left() > 0:
                return
            batch = self._fitting()
            task = asyncio.create_task(self._serve(batch))
            self._calls.add(task)
            task.add_done_callback(self._ended)

    def _fitting(self) -> list[Held]:
        """The next batch: no more than an event can hold."""
        batch: list[Held] = []
        size = PAYLOAD_ROOM_BYTES
        while self._ready and len(batch) < self._settings.batch_size:
            size += 2 * len(self._ready[0].message.body) + 1024
            if batch and size > limits.PAYLOAD_MAX_BYTES:
                break
            batch.append(self._ready.pop(0))
        self._since = time.monotonic()
        return batch

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._turn.set()
        self._broke(task)
        self._start_calls()

    def _broke(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = self._broken or error
            self._turn.set()

    async def _serve(self, batch: list[Held]) -> None:
        now_ms = int(time.time() * 1000)
        try:
            event = self._settings.shape.event(batch, now_ms)
        except Exception:
            batch = await self._presentable(batch, now_ms)
            if not batch:
                return
            event = self._settings.shape.event(batch, now_ms)
        messages = [held.message for held in batch]
        try:
            answer = await self._call(event, batch)
        except JiffyError as exc:
            self._later(batch, exc.message)
            return
        if answer.outcome in ("throttled", "platform"):
            self._later(batch, answer.payload.decode("utf-8", "replace")[:200])
            return
        failed = _failures(answer, messages)
        self._acknowledge([message for message in messages if message.id not in failed])
        self._notes.note("fired", answer.invocation, f"{len(batch)} messages", 1)
        if failed:
            why = f"{len(failed)} of {len(batch)} messages failed: {_why(answer)}"
            self._notes.note("failed", answer.invocation, why, len(failed))
            await self._failed([held for held in batch if held.message.id in failed], why)

    async def _presentable(self, batch: list[Held], now_ms: int) -> list[Held]:
        """Those of which an event can be made. The others never become one, however often they come: buried."""
        found = []
        for held in batch:
            try:
                self._settings.shape.event([held], now_ms)
                found.append(held)
            except Exception as exc:  # whatever a server of others may hand out
                await self._bury(held, f"no event can be made of it: {exc}"[:300])
        return found

    async def _failed(self, batch: list[Held], why: str) -> None:
        """Those with tries left come again, together; the others are buried."""
        again = [held._replace(tries=held.tries + 1) for held in batch if held.tries < self._settings.tries]
        if again:
            doublings = min(max(held.tries for held in again) - 2, 16)
            self._again(again, min(PAUSE_MAX_S, self._settings.retry_delay_s * 2**doublings))
        for held in batch:
            if held.tries >= self._settings.tries:
                await self._bury(held, why)

    def _later(self, batch: list[Held], why: str) -> None:
        """The platform could not run it: no fault of the messages."""
        self._notes.note("failed", "", f"not run, tried again: {why}", 0)
        self._again(batch, PLATFORM_PAUSE_S)

    def _again(self, batch: list[Held], pause_s: float) -> None:
        def due() -> None:
            for held in batch:
                self._enqueue(held)
            self._since = 0.0  # they have waited
            self._start_calls()

        asyncio.get_running_loop().call_later(pause_s, due)

    # --- settling -------------------------------------------------------------------------------------------

    async def _bury(self, held: Held, why: str) -> None:
        await self._source.bury(held.message, self._settings.dead_letter, why)
        self._out -= 1
        self._turn.set()
        text = f"message {held.message.id} is on {self._settings.dead_letter} after {held.tries} tries: {why}"
        self._notes.note("dead", "", text, 1)

    def _acknowledge(self, messages: Sequence[Message]) -> None:
        self._out -= len(messages)
        self._done.extend(messages)
        self._acks.set()
        self._turn.set()

    async def _settle(self) -> None:
        """One acknowledgement for all that has ended meanwhile."""
        while not self._stopping or self._calls or self._done:
            await self._acks.wait()
            self._acks.clear()
            done, self._done = self._done, []
            if done:
                await self._source.done(done)


def _failures(answer: Answer, messages: Sequence[Message]) -> set[str]:
    """The ids of those that failed. As with Lambda: what names none that was sent, or is malformed, fails all."""
    everything = {message.id for message in messages}
    if answer.outcome != "ok":
        return everything
    if b"batchItemFailures" not in answer.payload:
        return set()
    try:
        found = json.loads(answer.payload)["batchItemFailures"]
        named = {item["itemIdentifier"] for item in found or ()}
    except (ValueError, TypeError, KeyError, RecursionError):
        return everything
    return named if named <= everything else everything


def _why(answer: Answer) -> str:
    if answer.outcome == "ok":
        return "the function named them in batchItemFailures"
    try:
        error = json.loads(answer.payload)
        return f"{error['errorType']}: {error['errorMessage']}"[:300].encode("utf-8", "replace").decode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return str(answer.outcome)
