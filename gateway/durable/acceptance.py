"""How an asynchronous call is accepted, read first: wish → terms → batch → one atomic step → an id.

    accept ──▶ outgoing ──▶ one sender: whatever has gathered is one script (scripts/accept.lua)

Once `accept` has returned, the call ends exactly once, whoever dies: it stands on an invoker's stream or in `later`,
and only the step that writes its end takes it out of its tenant's backlog. A full backlog refuses, it does not grow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from uuid_utils import uuid7

from gateway.budgets.guard import Guard
from gateway.catalog import Function
from gateway.durable.store import Accepted, Claim, Holder
from gateway.durable.wishes import NONE, Wishes
from gateway.loops import Loop
from gateway.outbox import Outbox
from gateway.placement import Placement
from jiffy.contract import limits, lines
from jiffy.contract.errors import JiffyError, KeyReused, Throttled, Unavailable
from jiffy.contract.messages import Call, InvocationRecord, State

RETRY_AFTER_S = 1.0
FULL_RETRY_AFTER_S = 5.0  # a backlog does not drain in a moment

log = logging.getLogger("jiffy.gateway")

# Told once: "", this call is accepted; the id of the call that holds its idempotency key; or why neither.
Done = Callable[[str | JiffyError], None]


class Queue(Protocol):
    """Where calls are accepted; `store.DurableStore` is one. Raises Unavailable."""

    async def accept(self, batch: Sequence[Accepted], calls_max: int, bytes_max: int) -> list[int | Holder]: ...


class Bounds(NamedTuple):
    """What a tenant's backlog may hold."""

    calls: int = limits.BACKLOG_MAX
    payload_bytes: int = limits.BACKLOG_MAX_BYTES


class Acceptance:
    """Accepts asynchronous calls for everyone: HTTP callers, triggers, destinations. Run its `loops`.

    `bounds` may be changed at any time.
    """

    def __init__(
        self,
        queue: Queue,
        placement: Placement,
        guard: Guard,
        now_ms: Callable[[], int],
        bounds: Bounds = Bounds(),  # noqa: B008
    ) -> None:
        self._queue = queue
        self._placement = placement
        self._guard = guard
        self._now_ms = now_ms
        self.bounds = bounds
        self._outgoing: Outbox[tuple[Accepted, Done]] = Outbox(lambda item: len(item[0].call.payload))

    def loops(self) -> tuple[Loop, ...]:
        return (self._send,)

    async def accept(
        self,
        function: Function,
        payload: bytes,
        *,
        trigger: str,
        wishes: Wishes = NONE,
        invocation: str = "",
        claim: Claim | None = None,
        counted: bool = False,
    ) -> str:
        """The id of a call that is now accepted, or of the one that was accepted before with the same `claim`.

        Raises Throttled (the backlog is full), KeyReused (the key came with another request) and Unavailable.
        """
        invocation = invocation or str(uuid7())
        call = self.envelope(function, payload, trigger=trigger, wishes=wishes, invocation=invocation)
        return await self.offer(call._replace(claim=claim, counted=counted)) or invocation

    def envelope(
        self, function: Function, payload: bytes, *, trigger: str, wishes: Wishes, invocation: str
    ) -> Accepted:
        """A call, ready to be accepted. Raises Unavailable: it is due now, and no host that is up can run it."""
        return envelope(function, payload, trigger, wishes, invocation, self._now_ms(), self._placement, self._guard)

    async def offer(self, accepted: Accepted) -> str:
        """ "" once this call is accepted; else the id of the one that holds its idempotency key. Raises as `accept`."""
        future: asyncio.Future[str | JiffyError] = asyncio.get_running_loop().create_future()

        def done(result: str | JiffyError) -> None:
            if not future.done():  # its task may have been cancelled
                future.set_result(result)

        self.submit(accepted, done)
        result = await future
        if isinstance(result, JiffyError):
            raise result
        return result

    def submit(self, accepted: Accepted, done: Done) -> None:
        """The same without a task: `done` is told once what `offer` returns or raises."""
        self._outgoing.add((accepted, done))

    async def _send(self) -> None:
        while True:
            batch = await self._outgoing.take()
            try:
                results = await self._queue.accept([one for one, _ in batch], *self.bounds)
            except JiffyError as exc:
                for _, done in batch:
                    _tell(done, Unavailable(exc.message, retry_after_s=RETRY_AFTER_S))
                continue
            for (one, done), result in zip(batch, results, strict=True):
                _tell(done, self._verdict(one, result))

    def _verdict(self, accepted: Accepted, result: int | Holder) -> str | JiffyError:
        if isinstance(result, Holder):
            if accepted.claim is not None and result.fingerprint != accepted.claim.fingerprint:
                return KeyReused("this Idempotency-Key came before with another request; use a new one")
            return result.invocation
        if not result:
            return Throttled(
                f"{accepted.tenant} has {self.bounds.calls} asynchronous calls, or "
                f"{self.bounds.payload_bytes // limits.MIB} MiB of their payloads and of what "
                "destinations shall be told, waiting",
                retry_after_s=FULL_RETRY_AFTER_S,
            )
        return ""


def _tell(done: Done, result: str | JiffyError) -> None:
    """One caller's trouble must not become everyone's."""
    try:
        done(result)
    except Exception:
        log.exception("the caller of an asynchronous call could not be answered")


def envelope(
    function: Function,
    payload: bytes,
    trigger: str,
    wishes: Wishes,
    invocation: str,
    now_ms: int,
    placement: Placement,
    guard: Guard,
) -> Accepted:
    """A call with its terms, its record and its place. Raises Unavailable: it is due now, and no host can run it.

    It waits in `later` even when it is due where no invoker takes calls now, until one does, and where it is under a
    hard budget or a quota: there it is let in (later.py).
    """
    revision = function.revision
    terms = wishes.terms(revision.spec, now_ms)
    plan = guard.plan(revision)
    wait_ms = int(wishes.delay_s * 1000)
    waits = wait_ms or not placement.invokers or (plan is not None and plan.asks)
    due_ms = now_ms + wait_ms if waits else 0
    invoker = "" if due_ms else placement.place(function.tenant, function.name, revision.network, revision.store)
    deadline_ms = terms.expires_ms + revision.timeout_ms
    call = Call(
        invocation, 1, "async", "", now_ms, deadline_ms, trigger, function.packed, payload, terms, placement.tariff
    )
    if wishes.order_key:
        call = call._replace(line=lines.digest(wishes.order_key))
    if plan is not None and not due_ms:
        call = call._replace(hold=guard.async_hold(plan, now_ms))
    record = InvocationRecord(
        *(invocation, function.tenant, function.name, revision.number),
        *(State.QUEUED, now_ms, 0, None),
        due_ms,
        line=call.line,
    )
    return Accepted(invoker, function.tenant, call, record, keep_s(terms.expires_ms, now_ms), due_ms)


def keep_s(expires_ms: int, now_ms: int) -> int:
    """How long the record of a call that waits is kept: until it must have ended, and some more."""
    return max(0, expires_ms - now_ms) // 1000 + int(limits.TIMEOUT_MAX_S) + limits.RESULT_LOST_S
