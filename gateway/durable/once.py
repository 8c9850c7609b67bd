"""Calls with an Idempotency-Key: one execution per tenant, function and key; later callers get the first one's answer.

The first caller's key, record and call are written in one step (scripts/accept.lua), so the key outlives the gateway
that took it; the invoker writes the answer into the record in the step that completes the call. Whoever comes later
with the same request reads it there, or waits for it. A call that never began leaves no record: the next one with its
key is tried anew.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.budgets.guard import Guard
from gateway.catalog import Function
from gateway.dispatch import Dispatcher
from gateway.durable.acceptance import Acceptance
from gateway.durable.store import Accepted, Claim
from gateway.placement import Placement
from jiffy.contract import keys, limits
from jiffy.contract.errors import DeadlineExceeded, JiffyError
from jiffy.contract.messages import Answer, Call, InvocationRecord, State
from jiffy.contract.spending import Hold

LOOK_MIN_S, LOOK_MAX_S = 0.005, 0.1  # how often a later caller looks whether the first one's answer is there


class Records(Protocol):
    """Where records are; gateway.store.Store is one. Raises Unavailable."""

    async def invocation(self, invocation: str) -> InvocationRecord | None: ...


class Request(NamedTuple):
    """A synchronous call that shall be executed once."""

    function: Function
    claim: Claim
    invocation: str
    trigger: str
    event: bytes
    now_ms: int
    wait_ms: int


class Once:
    """See the module."""

    def __init__(
        self, acceptance: Acceptance, dispatcher: Dispatcher, placement: Placement, records: Records, guard: Guard
    ) -> None:
        self._acceptance = acceptance
        self._dispatcher = dispatcher
        self._placement = placement
        self._records = records
        self._guard = guard

    async def call(self, request: Request) -> Answer:
        """The answer; its invocation is another than the request's when that one was executed.

        Raises KeyReused, DeadlineExceeded and Unavailable.
        """
        try:
            async with asyncio.timeout(request.wait_ms / 1000):
                while True:
                    first = await self._first(request)
                    answer = await first if isinstance(first, asyncio.Future) else await self._later(first)
                    if isinstance(answer, JiffyError):
                        raise answer
                    if answer is not None:
                        return answer
        except TimeoutError as exc:
            raise DeadlineExceeded("the first call with this Idempotency-Key has not ended in time") from exc

    async def _first(self, request: Request) -> asyncio.Future[Answer | JiffyError] | str:
        """The answer to come, when this call is the one that is executed; else the id of that one."""
        function, revision, invocation = request.function, request.function.revision, request.invocation
        invoker = self._placement.place(function.tenant, function.name, revision.network, revision.store)
        hold = await self._hold(request)
        call = Call(
            *(invocation, 1, "sync", self._dispatcher.gateway, request.now_ms, request.now_ms + request.wait_ms),
            *(request.trigger, function.packed, request.event, None, self._placement.tariff),
            recorded=True,
            hold=hold or (),
        )
        record = InvocationRecord(
            *(invocation, function.tenant, function.name, revision.number),
            *(State.RUNNING, request.now_ms, 1, None),
        )
        keep_s = request.wait_ms // 1000 + limits.RESULT_LOST_S
        answered: asyncio.Future[Answer | JiffyError] = asyncio.get_running_loop().create_future()
        self._dispatcher.expect(invocation, request.wait_ms / 1000, _into(answered))
        self._placement.begun(invoker)
        answered.add_done_callback(lambda _: self._placement.ended(invoker))
        try:
            holder = await self._acceptance.offer(
                Accepted(invoker, function.tenant, call, record, keep_s, claim=request.claim)
            )
        except BaseException:
            answered.cancel()
            self._dispatcher.forget(invocation)
            raise
        if not holder:
            return answered
        answered.cancel()
        self._dispatcher.forget(invocation)
        if hold is not None and hold.holds:
            await self._guard.release(hold)
        return holder

    async def _hold(self, request: Request) -> Hold | None:
        """What the call spends of budgets, once it may. Raises BudgetExceeded, Throttled."""
        plan = self._guard.plan(request.function.revision)
        if plan is None:
            return None
        hold = self._guard.sync_hold(plan, request.now_ms)
        if plan.asks:
            await self._guard.reserved(plan, hold)
        return hold

    async def _later(self, invocation: str) -> Answer | None:
        """The answer to the call that is executed, once it is there; None when it never began."""
        pause = LOOK_MIN_S
        while record := await self._records.invocation(invocation):
            if record.answer is not None:
                return record.answer
            await asyncio.sleep(pause)
            pause = min(LOOK_MAX_S, pause * 1.5)
        return None


def _into(future: asyncio.Future[Answer | JiffyError]) -> Callable[[Answer | JiffyError], None]:
    def done(end: Answer | JiffyError) -> None:
        if not future.done():
            future.set_result(end)

    return done


def claim(function: Function, key: str, *request: str | bytes, kind: str = "") -> Claim:
    """What `key` stands for: this function, and a request that is the same when all of these parts are.

    Keys of another `kind` than callers' are apart: no caller can take one.
    """
    fingerprint = hashlib.sha256()
    for part in request:
        data = part.encode() if isinstance(part, str) else part
        fingerprint.update(b"%d:" % len(data))
        fingerprint.update(data)
    digest = hashlib.sha256(key.encode()).hexdigest()
    return Claim(keys.once(function.tenant, function.name, kind + digest), fingerprint.hexdigest())
