"""Who is told that a budget is close (`warn_at` per cent of it are spent) or used up: the log, and its destination.

Each is told once per period and limit, by whichever gateway sees it first (scripts/tell.lua); the destination is told
as those of asynchronous calls are (durable/deliveries.py): queued in the same step, signed, tried again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence

from gateway.budgets.budget import Budget, amount_text, iso
from gateway.budgets.guard import State, View
from gateway.budgets.store import BudgetStore
from jiffy.contract import limits
from jiffy.contract.errors import JiffyError
from jiffy.contract.messages import Delivery, Terms

REASON = "budget"  # of such a Delivery: what it tells is its response
_KINDS = {State.CLOSE: "budget.close", State.USED_UP: "budget.used_up"}

log = logging.getLogger("jiffy.budgets")


class Warnings:
    """`hear` is Guard.hear."""

    def __init__(self, store: BudgetStore, currency: Callable[[], str], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._currency = currency
        self._now_ms = now_ms
        self._told: set[tuple[str, str]] = set()  # by anyone
        self._telling: asyncio.Task[None] | None = None

    def hear(self, views: Sequence[View]) -> None:
        reached = [(view, _KINDS[view.state]) for view in views if view.state is not State.OK]
        new = [(view, kind) for view, kind in reached if self._mark(view, kind) not in self._told]
        if new and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell(new))

    async def close(self) -> None:
        if self._telling is not None:
            await asyncio.wait((self._telling,))

    def _mark(self, view: View, kind: str) -> tuple[str, str]:
        return view.counters, f"told:{view.budget.name}:{kind}:{view.budget.limit}"

    async def _tell(self, new: Sequence[tuple[View, str]]) -> None:
        for view, kind in new:
            mark, now_ms = self._mark(view, kind), self._now_ms()
            document = self._document(view, kind, now_ms)
            try:
                word = delivery(view.budget, json.dumps(document).encode(), now_ms)
                if await self._store.tell(*mark, now_ms, word, view.budget.tenant):
                    log.warning("%s", json.dumps(document))
                self._told.add(mark)
            except JiffyError:
                return  # the next look tries again

    def _document(self, view: View, kind: str, now_ms: int) -> dict[str, object]:
        return {
            "type": kind,
            "time": iso(now_ms),
            "budget": view.budget.document(),
            "spent": amount_text(view.spent.spent),
            "currency": self._currency(),
            "resets": view.ends,
        }


def delivery(budget: Budget, document: bytes, now_ms: int, subject: str = "state") -> Delivery | None:
    """The word to a budget's destination; None where it has none. `subject` tells apart what is said at one moment."""
    if not budget.notify:
        return None
    return Delivery(
        *(f"budget.{budget.name}.{subject}.{now_ms}", budget.notify, budget.tenant, f"budget {budget.name}", 0),
        invocation="",
        attempts=0,
        outcome="ok",
        reason=REASON,
        ended_ms=now_ms,
        request=b"",
        response=document,
        depth=1,
        terms=Terms(
            limits.DELIVERY_RETRIES,
            now_ms + limits.DELIVERY_MAX_AGE_S * 1000,
            limits.DELIVERY_BACKOFF_S * 1000,
        ),
    )
