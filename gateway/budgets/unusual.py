"""Who is told that a function's daily cost left its usual range (ledger/anomalies.py): the destinations of all budgets
that its calls are under, however much of them is left.

Every gateway looks; each is told once per function and day, in the same step as the word is queued (scripts/tell.lua).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Protocol

from gateway.budgets import scope as scopes
from gateway.budgets.budget import Budget, iso, period
from gateway.budgets.store import BudgetStore
from gateway.budgets.warnings import delivery
from gateway.catalog import Function
from gateway.ledger.anomalies import Anomaly
from jiffy.contract.errors import JiffyError

FIRST_S, EVERY_S = 60.0, 900.0
KIND = "cost.unusual"


class Books(Protocol):
    """Where calls are added up; gateway.ledger.Ledger is one. Raises Unavailable."""

    async def anomalies(self, tenant: str | None) -> list[Anomaly]: ...


class Unusual:
    """See the module. `find` gives a function by tenant and name, where it is still there."""

    def __init__(
        self,
        store: BudgetStore,
        books: Books,
        find: Callable[[str, str], Function | None],
        currency: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._books = books
        self._find = find
        self._currency = currency
        self._now_ms = now_ms

    async def watch(self) -> None:
        """Look for as long as the gateway runs."""
        await asyncio.sleep(FIRST_S)
        while True:
            with contextlib.suppress(JiffyError):  # looked at again
                await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Tell what has not been told. Raises Unavailable."""
        budgets = [budget for budget in (await self._store.all())[0] if budget.notify]
        if not budgets:
            return
        for one in await self._books.anomalies(None):
            for budget in budgets:
                if self._covers(budget, one):
                    await self._tell(budget, one)

    def _covers(self, budget: Budget, one: Anomaly) -> bool:
        function = self._find(one.tenant, one.function)
        if function is not None:
            return budget.covers(function.revision)
        return budget.tenant == one.tenant and budget.scope in (scopes.ALL, f"function:{one.function}")

    async def _tell(self, budget: Budget, one: Anomaly) -> None:
        now_ms = self._now_ms()
        document = {
            "type": KIND,
            "time": iso(now_ms),
            "budget": budget.document(),
            **one.to_dict(),
            "currency": self._currency(),
        }
        subject = f"{one.function}.{one.day}"
        told = f"told:{budget.name}:{KIND}:{subject}"
        word = delivery(budget, json.dumps(document).encode(), now_ms, subject)
        await self._store.tell(
            budget.counters(period("month", one.day * 86_400_000)), told, now_ms, word, budget.tenant
        )
