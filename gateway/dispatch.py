"""The story of a call, read first: submit → gathered into a batch → Redis → an answer → whoever submitted it.

    submit ──▶ outgoing ──▶ one sender: whatever has gathered goes out as one command; the next batch
                                        gathers meanwhile, so batches grow under load
    answers:{gateway} ──▶ one reader: many answers per command, each handed to its caller's `done`
                                        or, of one that is streamed, a piece for streams.py
    every SWEEP_S ──▶ callers whose deadline has passed are told so

No call has a task, a timer or a future of its own. When Redis is lost, new callers hear so at once; those whose calls
are queued keep waiting for PATIENCE_S, because a call outlives a Redis that comes back. What Redis is told: store.py.
Asynchronous calls are accepted in durable/acceptance.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from gateway.loops import Loop
from gateway.outbox import Outbox
from gateway.store import Sent
from jiffy.contract import keys, wire
from jiffy.contract.errors import DeadlineExceeded, JiffyError, PlatformError, Unavailable
from jiffy.contract.messages import Answer, Call

SWEEP_S = 0.1  # how late a caller may hear of its deadline
GRACE_S = 2.0  # past the deadline: the invoker kills at it, and its answer "timeout" says more than ours
PATIENCE_S = 3.0  # how long Redis may be gone before queued calls are given up: a restart takes about one second
RETRY_AFTER_S = 1.0
BACK_OFF_MIN_S, BACK_OFF_MAX_S = 0.05, 1.0

log = logging.getLogger("jiffy.gateway")


class Queue(Protocol):
    """What the dispatcher needs of a queue; `store.Store` is one. Both raise Unavailable."""

    async def send(self, batch: Sequence[Sent]) -> None: ...

    async def receive(self, gateway: str, wait_s: float = 1.0) -> Sequence[bytes]: ...


Done = Callable[[Answer | JiffyError], None]  # told once how a call ended; must not raise


class _Waiter(NamedTuple):
    done: Done
    expires: float  # on the loop's clock
    timeout_s: float


class Dispatcher:
    """Sends calls and hands out their answers. Make it inside a running loop, and run its `loops` there."""

    def __init__(
        self,
        queue: Queue,
        gateway: str,
        pieces: Callable[[bytes], None] = lambda _: None,
        *,
        grace_s: float = GRACE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._pieces = pieces
        self._grace_s = grace_s
        self._patience_s = patience_s
        self.gateway = gateway
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._outgoing: Outbox[tuple[Sent, str]] = Outbox(lambda item: len(item[0].call))
        self._waiting: dict[str, _Waiter] = {}
        self._earliest = float("inf")
        self._lost_at: float | None = None

    def __len__(self) -> int:
        """Calls that are on their way."""
        return len(self._waiting)

    def loops(self) -> tuple[Loop, ...]:
        """What must run for calls to be sent and answered."""
        return self._send, self._receive, self._sweep

    def give_up(self) -> None:
        """Tell all who still wait, as this gateway ends; what was sent goes on, and whoever calls again calls twice."""
        for _, invocation in self._outgoing.clear():
            self.abandon(invocation, Unavailable("this gateway is stopping", retry_after_s=RETRY_AFTER_S))
        for invocation in tuple(self._waiting):
            text = f"this gateway stopped before invocation {invocation} ended; it may have run, or run on"
            self.abandon(invocation, PlatformError(text))

    def submit(self, invoker: str, call: Call, wait_s: float, done: Done) -> None:
        """Send a synchronous call; `done` hears of its end within `wait_s` (deadline − now) and a grace.

        That is an Answer, or Unavailable (the queue is lost), DeadlineExceeded, or PlatformError (this gateway ends).
        """
        self.expect(call.invocation, wait_s, done)
        self._outgoing.add((Sent(keys.calls(invoker), wire.pack(call)), call.invocation))

    def expect(self, invocation: str, wait_s: float, done: Done) -> None:
        """Tell `done` how a call ends that somebody else sends: this gateway stands in its envelope."""
        expires = self._loop.time() + wait_s + self._grace_s
        self._waiting[invocation] = _Waiter(done, expires, wait_s)
        if expires < self._earliest:
            self._earliest = expires

    def forget(self, invocation: str) -> None:
        """Nobody waits for this call any more."""
        self._waiting.pop(invocation, None)

    def abandon(self, invocation: str, error: JiffyError) -> None:
        """Tell the caller of this call, if it is ours and still waits, that no answer will come."""
        waiter = self._waiting.pop(invocation, None)
        if waiter is not None:
            _tell(waiter, invocation, error)

    # --- out ------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            batch = await self._outgoing.take()
            try:
                await self._queue.send([sent for sent, _ in batch])
            except JiffyError as exc:
                self._refuse(batch, exc)

    def _refuse(self, batch: list[tuple[Sent, str]], error: JiffyError) -> None:
        for _, invocation in batch:
            waiter = self._waiting.pop(invocation, None)
            if waiter is not None:
                _tell(waiter, invocation, Unavailable(error.message, retry_after_s=RETRY_AFTER_S))

    # --- in -------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        back_off = BACK_OFF_MIN_S
        while True:
            try:
                answers = await self._queue.receive(self.gateway)
            except JiffyError:
                self._lost_at = self._lost_at or self._loop.time()
                await asyncio.sleep(back_off)
                back_off = min(back_off * 2, BACK_OFF_MAX_S)
                continue
            self._lost_at, back_off = None, BACK_OFF_MIN_S
            for data in answers:
                self._resolve(data)

    def _resolve(self, data: bytes) -> None:
        try:
            answer = wire.unpack(Answer, data)
        except PlatformError:
            self._pieces(data)  # of an answer that comes piece by piece; else nobody's
            return
        waiter = self._waiting.pop(answer.invocation, None)
        if waiter is not None:
            _tell(waiter, answer.invocation, answer)

    # --- deadlines ------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._loop.time()
            if self._lost_at is not None and now - self._lost_at > self._patience_s:
                self._give_up("the queue was lost while this call was in it")
            if now < self._earliest:
                continue
            for invocation in [i for i, waiter in self._waiting.items() if waiter.expires <= now]:
                waiter = self._waiting.pop(invocation)
                text = f"nothing came back about invocation {invocation} within {waiter.timeout_s:.1f} s"
                _tell(waiter, invocation, DeadlineExceeded(text))
            self._earliest = min((w.expires for w in self._waiting.values()), default=float("inf"))

    def _give_up(self, why: str) -> None:
        self._outgoing.clear()  # what its caller is told was not run must not be run
        waiting, self._waiting = self._waiting, {}
        for invocation, waiter in waiting.items():
            _tell(waiter, invocation, Unavailable(why, retry_after_s=RETRY_AFTER_S))


def _tell(waiter: _Waiter, invocation: str, end: Answer | JiffyError) -> None:
    """One caller's trouble must not become everyone's."""
    try:
        waiter.done(end)
    except Exception:
        log.exception("the caller of invocation %s could not be answered", invocation)
