"""How a trigger calls its function: an envelope as every call's, with the trigger's name on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from uuid_utils import uuid7

from gateway.catalog import Function
from gateway.placement import Placement
from gateway.triggers.trigger import Trigger
from jiffy.contract import limits
from jiffy.contract.messages import Call, InvocationRecord

ASYNC_WAIT_MS = int(limits.ASYNC_WAIT_MAX_S * 1000)


class Envelope(NamedTuple):
    """An asynchronous call, ready to be queued."""

    invoker: str
    call: Call
    record: InvocationRecord


class Calls:
    """Makes calls; nobody waits for them."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    def envelope(self, function: Function, trigger: Trigger, event: Callable[[str], bytes], now_ms: int) -> Envelope:
        """The call that `trigger` makes; `event` is given the invocation's id. Raises Unavailable: no invoker."""
        revision, invocation = function.revision, str(uuid7())
        payload = event(invocation)
        invoker = self._placement.place(function.tenant, function.name, revision.network)
        deadline_ms = now_ms + ASYNC_WAIT_MS + revision.timeout_ms
        call = Call(
            *(invocation, 1, "async", "", now_ms, deadline_ms, trigger.label, function.packed, payload),
        )
        record = InvocationRecord(
            invocation, function.tenant, function.name, revision.number, "queued", now_ms, 0, None
        )
        return Envelope(invoker, call, record)
