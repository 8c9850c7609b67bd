"""Taking back an asynchronous call that has not begun.

A call that an invoker has is past taking back: it may run at this moment. The step itself is scripts/cancel.lua.
"""

from __future__ import annotations

from typing import Protocol

from gateway.budgets.guard import Guard
from jiffy.contract import wire
from jiffy.contract.errors import Conflict, NotFound, Unavailable
from jiffy.contract.messages import Call, InvocationRecord, State
from jiffy.contract.spending import Hold

TRIES = 5  # a call may move from its waiting to a stream while we look


class Records(Protocol):
    """Where records are; gateway.store.Store is one."""

    async def invocation(self, invocation: str) -> InvocationRecord | None: ...


class Queued(Protocol):
    """Where calls are queued; `store.DurableStore` is one. All raise Unavailable."""

    async def where(self, tenant: str, invocation: str) -> str | None: ...

    async def queued_call(self, where: str, invocation: str) -> bytes | None: ...

    async def cancel(self, tenant: str, where: str, record: InvocationRecord, size: int) -> int: ...


class Cancellation:
    """See the module."""

    def __init__(self, records: Records, queued: Queued, guard: Guard) -> None:
        self._records = records
        self._queued = queued
        self._guard = guard

    async def cancel(self, tenant: str, invocation: str) -> InvocationRecord:
        """Its record, now cancelled. Raises NotFound, and Conflict when it runs or has ended."""
        for _ in range(TRIES):
            record = await self._records.invocation(invocation)
            if record is None or record.tenant != tenant:
                raise NotFound(f"there is no asynchronous invocation {invocation}; results are kept for a day")
            where = await self._queued.where(tenant, invocation)
            if where is None:
                raise Conflict(f"invocation {invocation} has ended: it is {record.state}")
            packed = await self._queued.queued_call(where, invocation)
            if packed is None:
                continue
            call = wire.unpack(Call, packed)
            # Attempts as the call has them: one may have ended since the record was read.
            cancelled = record._replace(state=State.CANCELLED, due_ms=0, attempts=call.attempt - 1)
            done = await self._queued.cancel(tenant, where, cancelled, len(call.payload))
            if done == 1:
                if where != "later" and call.hold:  # what waits there holds nothing
                    await self._guard.release(Hold(*call.hold))
                return cancelled
            if done == 0:
                raise Conflict(f"invocation {invocation} is with an invoker: it runs, or is about to")
        raise Unavailable(f"invocation {invocation} keeps moving; try again", retry_after_s=1.0)
