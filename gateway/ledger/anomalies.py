"""Functions whose daily cost left its usual range: today's so far above it, or yesterday's outside of it.

Usual is the median of the days before, four weeks at most, give or take three standard deviations as the median
absolute deviation estimates them, and at least half the median: neither one wild day nor a quiet week makes the range
wrong. Days without calls cost nothing and count, from a function's first day on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from . import prices, sums
from .hours import DAY_HOURS, HOUR_MS
from .lines import day_text
from .prices import Money, PriceBook

if TYPE_CHECKING:
    from .questions import Question

DAY_MS = DAY_HOURS * HOUR_MS
DAYS, DAYS_MIN = 28, 7  # looked back at; fewer say too little
SPREAD = 3 * Fraction(14826, 10_000)  # of the deviations: three standard ones, were it a normal distribution
LEAST = Fraction(1, 2)  # of the median: costs that hardly ever change may change by so much
WORTH = 10**prices.DIGITS // 100  # a hundredth of the currency: less is no news


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One day of one function that was not usual."""

    tenant: str
    function: str
    day: int  # since 1970
    cost: Money
    low: Money  # of the usual range
    high: Money

    def to_dict(self) -> dict[str, object]:
        return {
            "function": self.function,
            "day": day_text(self.day),
            "cost": prices.text(self.cost),
            "usual_low": prices.text(self.low),
            "usual_high": prices.text(self.high),
        }


def usual(costs: list[int]) -> tuple[Money, Money]:
    """The range that the costs of these days make."""
    middle = median(map(Fraction, costs))
    spread = max(SPREAD * median(abs(cost - middle) for cost in costs), LEAST * middle)
    return Money(max(0, int(middle - spread))), Money(int(middle + spread))


def unusual(costs: Mapping[int, int], today: int) -> tuple[int, Money, Money] | None:
    """(day, low, high) of the newest day outside its range, of one function's costs by day; None: all is as usual."""
    for day in (today, today - 1):
        first = max(day - DAYS, min(costs, default=day))
        before = [costs.get(one, 0) for one in range(first, day)]
        if len(before) < DAYS_MIN:
            continue
        (low, high), cost = usual(before), costs.get(day, 0)
        if cost > high + WORTH or (day < today and cost + WORTH < low):
            return day, low, high
    return None


def since_ms(now_ms: int) -> int:
    """From when on costs are looked at: the question's span."""
    return (now_ms // DAY_MS - DAYS - 1) * DAY_MS


def of(connection: Connection, question: Question, books: Mapping[int, PriceBook], today: int) -> list[Anomaly]:
    """Of the functions that match, by name."""
    part, names = sums.matching(question, books), sums.Names(connection)
    keys = {name: sums.key(part, name) for name in ("function", "day", "book", "variant")}
    costs: dict[int, dict[int, int]] = {}
    for row in connection.execute(sums.added_up(part, keys)):
        tenant, _ = names.functions[row.function]
        price = sums.priced(row, books[row.book], tenant, names.variants[row.variant][0]).price
        days = costs.setdefault(row.function, {})
        days[int(row.day)] = days.get(int(row.day), 0) + price
    found = []
    for function, days in costs.items():
        if (seen := unusual(days, today)) is not None:
            day, low, high = seen
            found.append(Anomaly(*names.functions[function], day, Money(days.get(day, 0)), low, high))
    return sorted(found, key=lambda one: (one.tenant, one.function))
