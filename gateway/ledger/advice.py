"""What would be cheaper: functions that declare far more memory than any of their calls used, as exact amounts.

Only a function's newest revision counts: what was changed since needs no advice. Where memory also buys processor time
less of it may take longer; the advice is about memory alone and says what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row

from jiffy.contract import limits

from . import prices, sums
from .lines import Sum, nothing
from .prices import Money, PriceBook

if TYPE_CHECKING:
    from .questions import Question

CALLS_MIN = 10  # fewer say too little
SPARE = 1.25  # above the largest use that was seen
STEP_MB = 8
WORTH = 0.9  # a smaller change is not worth a deploy


@dataclass(frozen=True, slots=True)
class Advice:
    """One function at less memory."""

    function: str
    revision: int
    calls: int
    memory_mb: int
    max_memory_bytes: int
    suggested_mb: int
    price: Money  # of these calls, and of what was kept ready for them
    price_then: Money

    def to_dict(self) -> dict[str, object]:
        return {
            "function": self.function,
            "revision": self.revision,
            "calls": self.calls,
            "memory_mb": self.memory_mb,
            "max_memory_bytes": self.max_memory_bytes,
            "suggested_mb": self.suggested_mb,
            "price": prices.text(self.price),
            "saving": prices.text(self.price - self.price_then),
        }


def suggested_mb(max_memory_bytes: int) -> int:
    """Memory that leaves room above the largest use."""
    wanted = int(max_memory_bytes * SPARE) // limits.MIB + 1
    return max(limits.MEMORY_MIN_MB, -(-wanted // STEP_MB) * STEP_MB)


def newest_revision(
    connection: Connection, question: Question, books: Mapping[int, PriceBook]
) -> tuple[int, int, Sum] | None:
    """(number, MB, sum) of the newest revision of one function that had charged calls; None when there was none."""
    assert question.tenant is not None
    part, names = sums.matching(question, books), sums.Names(connection)
    keys = {name: part.c[name] for name in ("revision", "memory_mb", "book", "variant")}
    rows = [row for row in connection.execute(sums.added_up(part, keys)) if row.charged]
    if not rows:
        return None
    newest = max((row.revision, row.memory_mb) for row in rows)
    total = nothing()
    for row in rows:
        if (row.revision, row.memory_mb) == newest:
            total = total.plus(sums.priced(row, books[row.book], question.tenant, names.variants[row.variant][0]))
    return *newest, total


def of(connection: Connection, question: Question, books: Mapping[int, PriceBook]) -> list[Advice]:
    """Advice for the functions that match, the largest saving first."""
    part = sums.matching(question, books)
    keys = {name: part.c[name] for name in ("function", "revision", "memory_mb", "book", "variant")}
    rows = connection.execute(sums.added_up(part, keys)).all()
    names = sums.Names(connection)
    newest: dict[int, tuple[int, int]] = {}
    for row in rows:
        newest[row.function] = max(newest.get(row.function, (0, 0)), (row.revision, row.memory_mb))
    owned: dict[int, list[Row[Any]]] = {}
    for row in rows:
        if newest[row.function] == (row.revision, row.memory_mb):
            owned.setdefault(row.function, []).append(row)
    found = []
    for function, own in owned.items():
        revision, memory_mb = newest[function]
        largest, calls = max(int(row.max_memory_bytes) for row in own), sum(int(row.charged) for row in own)
        wanted = suggested_mb(largest)
        if calls < CALLS_MIN or not largest or wanted > memory_mb * WORTH:
            continue
        tenant, name = names.functions[function]
        price = then = 0
        for row in own:
            rates = books[row.book].rates_for(tenant, names.variants[row.variant][0])
            price += rates.price(int(row.mb_ms), int(row.charged))
            price += rates.provisioned_price(int(row.provisioned_mb_ms))
            then += rates.price(int(row.billed_ms) * wanted, int(row.charged))
            then += rates.provisioned_price(int(row.provisioned_ms) * wanted)
        found.append(Advice(name, revision, calls, memory_mb, largest, wanted, Money(price), Money(then)))
    return sorted(found, key=lambda one: (one.price_then - one.price, one.function))
