"""/v1/invocations/{id}: what became of a call. Asynchronous ones have a record; others are found in the ledger."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.durable.cancellation import Cancellation
from gateway.openapi import Endpoint
from gateway.routes import caller
from gateway.store import Store
from jiffy.contract.access import Role
from jiffy.contract.errors import NotFound
from jiffy.contract.messages import Answer, Delivery, InvocationRecord, State

CALLS = Role.INVOKE  # results are for those who call, and who calls may take it back
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Attempt(Protocol):
    """One attempt as the ledger tells it."""

    def to_dict(self) -> dict[str, object]: ...


class Ledger(Protocol):
    """What is needed of the ledger."""

    async def invocation(self, invocation_id: str, tenant: str) -> Sequence[Attempt]: ...


class Deliveries(Protocol):
    """What is needed of deliveries. Raises Unavailable."""

    async def waiting(self, invocation: str, attempt: int) -> tuple[Delivery, int] | None: ...


class Kept(Protocol):
    """What is needed of what is kept beside records. Both raise Unavailable."""

    async def head(self, record: InvocationRecord) -> str: ...
    async def orphan(self, invocation: str) -> Answer | None: ...


class Invocations:
    def __init__(
        self, store: Store, ledger: Ledger, cancellation: Cancellation, deliveries: Deliveries, kept: Kept
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._cancellation = cancellation
        self._deliveries = deliveries
        self._kept = kept

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/invocations/{invocation}"
        return (
            Endpoint("GET", path, self.show, "State, outcome and result of a call.", errors=("404", "503"), role=CALLS),
            Endpoint("DELETE", path, self.cancel, "Take back a queued call.", errors=("404", "409", "503"), role=CALLS),
        )

    async def cancel(self, request: Request) -> Response:
        record = await self._cancellation.cancel(caller.tenant(request), _invocation(request))
        return JSONResponse(_document(record))

    async def show(self, request: Request) -> Response:
        invocation = _invocation(request)
        record = await self._store.invocation(invocation)
        if record is not None and record.tenant == caller.tenant(request):
            return JSONResponse(_document(record) | await self._behind(record) | await self._untold(record))
        attempts = await self._ledger.invocation(invocation, caller.tenant(request))
        if not attempts:
            raise NotFound(f"there is no invocation {invocation}; results are kept for a day, or as result_keep_s says")
        orphan = await self._kept.orphan(invocation)
        return JSONResponse(_from_ledger(attempts) | (_answer(orphan) if orphan else {}))

    async def _behind(self, record: InvocationRecord) -> dict[str, Any]:
        """The call with the same order key that must end first."""
        head = await self._kept.head(record) if record.state == State.QUEUED else ""
        return {"behind": head} if head not in ("", record.invocation) else {}

    async def _untold(self, record: InvocationRecord) -> dict[str, Any]:
        """The destination that is still to hear of the call's end."""
        if record.state not in (State.DONE, State.DEAD):
            return {}
        found = await self._deliveries.waiting(record.invocation, record.attempts)
        if found is None:
            return {}
        one, due_ms = found
        return {"delivery": {"target": one.target, "tried": one.terms.tried, "error": one.error, "due_ms": due_ms}}


def _invocation(request: Request) -> str:
    invocation: str = request.path_params["invocation"]
    if not _ID.fullmatch(invocation):
        raise NotFound(
            f"there is no invocation {invocation[:80]!r}: an id has 36 characters, and is wanted whole; the log, "
            "`jiffy bill --wide` and `jiffy invoke --async` show it so"
        )
    return invocation


def _document(record: InvocationRecord) -> dict[str, Any]:
    document: dict[str, Any] = {
        "invocation": record.invocation,
        "function": record.function,
        "revision": record.revision,
        "state": record.state,
        "attempts": record.attempts,
        "accepted_ms": record.accepted_ms,
    }
    if record.due_ms:
        document["due_ms"] = record.due_ms
    if record.reason:
        document["reason"] = record.reason
    return document if record.answer is None else document | _answer(record.answer)


def _answer(answer: Answer) -> dict[str, Any]:
    try:
        result = json.loads(answer.payload) if answer.payload else None
    except (ValueError, RecursionError):
        result = answer.payload.decode("utf-8", "replace")
    return {
        "outcome": answer.outcome,
        "result" if answer.outcome == "ok" else "error": result,
        "duration_ms": answer.duration_us / 1000,
        "billed_ms": answer.billed_ms,
        "cold": answer.cold,
        "init_ms": answer.init_us / 1000,
        "queue_ms": answer.queue_us / 1000,
        "max_memory_bytes": answer.max_memory_bytes,
    }


def _from_ledger(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """A synchronous call's result went to its caller and is kept only if its gateway died; how it went is."""
    last = attempts[-1].to_dict()
    kept = ("invocation", "function", "revision", "outcome", "billed_ms", "cold", "max_memory_bytes")
    numbers = ("duration_ms", "init_ms", "queue_ms")
    return (
        {"state": "done", "attempts": len(attempts)}
        | {name: last[name] for name in kept}
        | {name: float(str(last[name])) for name in numbers}
    )
