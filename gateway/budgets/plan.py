"""What calls of one revision may cost under the price book in force, and which counters they spend of. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gateway.budgets.budget import Budget, period
from gateway.ledger.prices import DIGITS, PriceBook
from jiffy.contract import limits, meter, spending
from jiffy.contract.messages import Outcome, Revision
from jiffy.contract.spending import Hold

_RATE = 10 ** (DIGITS - spending.RATE_DIGITS)
_LARGEST = 2**63 - 1  # what a message can hold


class Plan(NamedTuple):
    """Made once for each revision, until budgets, prices or the day change."""

    per_ms: int
    per_call: int
    worst: int  # what a call costs that runs until its timeout
    keys: tuple[str, ...]  # of the counters that it spends of
    strict: tuple[Budget | None, ...]  # the smallest hard budget of each counter
    timeout_ms: int

    @property
    def hard(self) -> bool:
        return any(self.strict)

    def hold(self, until_ms: int) -> Hold:
        """For one call, with room until a moment at which it must have ended."""
        worst = self.worst if self.hard else 0
        return Hold(self.per_ms, self.per_call, worst, spending.slot_of(until_ms), self.keys)


def make(revision: Revision, budgets: Iterable[Budget], book: PriceBook, now_ms: int) -> Plan | None:
    """None when no budget covers it."""
    strict: dict[str, Budget | None] = {}
    for budget in budgets:
        if budget.covers(revision):
            key = budget.counters(period(budget.per, now_ms))
            known = strict.setdefault(key, None)
            if budget.hard and (known is None or budget.limit < known.limit):
                strict[key] = budget
    if not strict:
        return None
    rates = book.rates_for(revision.tenant, revision.runtime)
    per_ms = min(_LARGEST, -(-revision.memory_mb * rates.mb_ms_units // _RATE))
    per_call = min(_LARGEST, -(-rates.call_units // _RATE))
    init_us = int(limits.INIT_MAX_S * 1_000_000)
    longest_ms = meter.billed_ms(revision.timeout_ms * 1000, Outcome.TIMEOUT, book.tariff, init_us)
    worst = min(_LARGEST, spending.cost(per_ms, per_call, longest_ms))
    return Plan(per_ms, per_call, worst, tuple(strict), tuple(strict.values()), revision.timeout_ms)
