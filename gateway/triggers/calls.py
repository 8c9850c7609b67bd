"""How a trigger calls its function: as every asynchronous call, with the trigger's name on it."""

from __future__ import annotations

from collections.abc import Callable

from uuid_utils import uuid7

from gateway.budgets.guard import Guard
from gateway.catalog import Function
from gateway.durable.acceptance import envelope
from gateway.durable.store import Accepted
from gateway.durable.wishes import NONE
from gateway.placement import Placement
from gateway.triggers.trigger import Trigger


class Calls:
    """Makes calls; nobody waits for them."""

    def __init__(self, placement: Placement, guard: Guard) -> None:
        self._placement = placement
        self._guard = guard

    def envelope(self, function: Function, trigger: Trigger, event: Callable[[str], bytes], now_ms: int) -> Accepted:
        """The call that `trigger` makes; `event` is given the invocation's id. Raises as `envelope`."""
        invocation = str(uuid7())
        return envelope(
            *(function, event(invocation), trigger.label, NONE, invocation, now_ms),
            *(self._placement, self._guard),
        )
