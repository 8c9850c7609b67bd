"""What calls of one revision may cost under the price book in force, which counters they spend of, and which quotas
they are under. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gateway.budgets.budget import Budget, period
from gateway.budgets.quota import Quota
from gateway.ledger.prices import DIGITS, PriceBook
from jiffy.contract import limits, meter, spending
from jiffy.contract.messages import Outcome, Revision
from jiffy.contract.spending import Hold

_RATE = 10 ** (DIGITS - spending.RATE_DIGITS)
_LARGEST = 2**63 - 1  # what a message can hold


class Asked(NamedTuple):
    """A call that wants to be let in, as scripts/reserve.lua is asked."""

    hold: Hold
    limits: tuple[int | None, ...]  # of each of its counters; None: none
    rates: tuple[tuple[str, int, int], ...] = ()  # key, µs from one call to the next, µs that may be used up at once
    places: tuple[int, ...] = ()  # how many, of each of the hold's places


class Plan(NamedTuple):
    """Made once for each revision, until budgets, quotas, prices or the day change."""

    per_ms: int
    per_call: int
    worst: int  # what a call costs that runs until its timeout
    keys: tuple[str, ...]  # of the counters that it spends of
    strict: tuple[Budget | None, ...]  # the smallest hard budget of each counter
    rates: tuple[Quota, ...]
    places: tuple[Quota, ...]
    timeout_ms: int

    @property
    def asks(self) -> bool:
        """Must a call be let in before it is sent?"""
        return any(self.strict) or bool(self.rates or self.places)

    def hold(self, until_ms: int) -> Hold:
        """For one call, with room until a moment at which it must have ended."""
        worst = self.worst if any(self.strict) else 0
        places = tuple(quota.places_key for quota in self.places)
        return Hold(self.per_ms, self.per_call, worst, spending.slot_of(until_ms), self.keys, places)

    def asked(self, hold: Hold) -> Asked:
        return Asked(
            hold,
            tuple(budget.limit if budget else None for budget in self.strict),
            tuple((one.rate_key, one.interval_us, one.interval_us * one.burst) for one in self.rates),
            tuple(quota.concurrency for quota in self.places),
        )


def make(
    revision: Revision, budgets: Iterable[Budget], quotas: Iterable[Quota], book: PriceBook, now_ms: int
) -> Plan | None:
    """None when nothing covers it."""
    strict: dict[str, Budget | None] = {}
    for budget in budgets:
        if budget.covers(revision):
            key = budget.counters(period(budget.per, now_ms))
            known = strict.setdefault(key, None)
            if budget.hard and (known is None or budget.limit < known.limit):
                strict[key] = budget
    under = [quota for quota in quotas if quota.covers(revision)]
    if not strict and not under:
        return None
    rates = book.rates_for(revision.tenant, revision.runtime)
    per_ms = min(_LARGEST, -(-revision.memory_mb * rates.mb_ms_units // _RATE))
    per_call = min(_LARGEST, -(-rates.call_units // _RATE))
    init_us = int(limits.INIT_MAX_S * 1_000_000)
    longest_ms = meter.billed_ms(revision.timeout_ms * 1000, Outcome.TIMEOUT, book.tariff, init_us)
    worst = min(_LARGEST, spending.cost(per_ms, per_call, longest_ms))
    return Plan(
        *(per_ms, per_call, worst, tuple(strict), tuple(strict.values())),
        tuple(quota for quota in under if quota.rate),
        tuple(quota for quota in under if quota.concurrency),
        revision.timeout_ms,
    )
