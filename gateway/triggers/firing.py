"""A trigger fired by hand: its call, queued at once, whatever its state; the log tells it from others."""

from __future__ import annotations

import json
from collections.abc import Callable

from uuid_utils import uuid7

from gateway.catalog import Function
from gateway.durable.acceptance import Acceptance
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.store import TriggerStore
from gateway.triggers.trigger import Trigger
from jiffy.contract import events
from jiffy.contract.errors import InvalidRequest


class Firing:
    def __init__(
        self,
        store: TriggerStore,
        acceptance: Acceptance,
        metrics: TriggerMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._acceptance = acceptance
        self._metrics = metrics
        self._now_ms = now_ms

    async def fire(self, function: Function, trigger: Trigger, event: bytes) -> str:
        """Call the function with `event`, or with what the trigger would make now; returns the invocation's id."""
        now_ms = self._now_ms()
        invocation = str(uuid7())
        payload = _event(trigger, invocation, event, now_ms)
        await self._acceptance.accept(function, payload, trigger=trigger.label, invocation=invocation)
        await self._store.called(trigger.id, "fired", invocation, "by hand", now_ms)
        self._metrics.count(trigger.id, "fired")
        return invocation


def _event(trigger: Trigger, invocation: str, given: bytes, now_ms: int) -> bytes:
    if given.strip():
        try:
            json.loads(given)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(f"the event must be JSON: {exc}") from exc
        return given
    if trigger.type == "schedule":
        return tick_event(trigger, invocation, now_ms)
    raise InvalidRequest(f"a {trigger.type} trigger is fired with an event: send it as the body, as JSON")


def tick_event(trigger: Trigger, invocation: str, tick_ms: int) -> bytes:
    """What a schedule's function is called with."""
    return events.encode(
        events.schedule(
            event_id=invocation,
            function=trigger.id.function,
            trigger=trigger.id.name,
            tick_ms=tick_ms,
            detail=dict(trigger.options["detail"]),
        )
    )
