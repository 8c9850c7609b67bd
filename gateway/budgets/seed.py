"""What was spent before a budget was set: from the ledger, while the period lasts in which it was.

Calls that ran when it was set come into the ledger when they have ended, so it is asked again for as long as that may
take. A call that was accepted before and began after is the one that neither knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.budgets.budget import Budget, period
from gateway.budgets.store import BudgetStore
from gateway.ledger.lines import Sum
from gateway.ledger.prices import DIGITS
from gateway.ledger.questions import Answer, By, Question
from jiffy.contract import limits, spending
from jiffy.contract.errors import JiffyError

AGAIN_S = 30.0
AGAIN_FOR_MS = int(1000 * (limits.TIMEOUT_MAX_S + limits.WAIT_MAX_S)) + 120_000  # the longest call, and its settling
TAGS_MAX = 100_000  # values of one tag
_UNIT = 10 ** (DIGITS - spending.DIGITS)


class Books(Protocol):
    """Where calls are added up; gateway.ledger.Ledger is one. Raises Unavailable."""

    async def settle_now(self) -> int: ...

    async def ask(self, question: Question, with_total: bool = True) -> Answer: ...


class Seed:
    """See the module."""

    def __init__(self, store: BudgetStore, books: Books, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._books = books
        self._now_ms = now_ms

    async def watch(self) -> None:
        """Ask again of what was set lately, for as long as the gateway runs."""
        while True:
            await asyncio.sleep(AGAIN_S)
            try:
                for budget in (await self._store.all())[0]:
                    if self._now_ms() < budget.since_ms + AGAIN_FOR_MS:
                        await self.take(budget)
            except JiffyError:
                continue

    async def take(self, budget: Budget) -> None:
        """Write down what was spent in this period before the budget was set. Raises Unavailable."""
        now = period(budget.per, self._now_ms())
        if budget.since_ms <= now.starts_ms:
            return
        await self._books.settle_now()
        kind, _, value = budget.scope.partition(":")
        question = Question(
            *(budget.tenant, By.TAG if kind == "tag" else By.TOTAL),
            function=value if kind == "function" else None,
            since_ms=now.starts_ms,
            until_ms=budget.since_ms,
            tag=value.partition("=")[0] if kind == "tag" else None,
            limit=TAGS_MAX,
        )
        answer = await self._books.ask(question)
        if kind == "tag":
            wanted = value.partition("=")[2]
            found = [row.of_calls.price for row in answer.rows if isinstance(row, Sum) and row.name == wanted]
            price = sum(found)
        else:
            price = answer.total.of_calls.price
        await self._store.seed(budget.counters(now), -(-price // _UNIT))
