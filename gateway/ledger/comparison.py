"""The same calls under another price book: every attempt is rounded anew by that book's step and minimum.

So this reads the attempts themselves, not their sums by the hour; what retention has removed is not compared, and
the answer says how many calls it covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, case, cast, func, literal_column, select
from sqlalchemy.sql.elements import ColumnElement

from . import attempts, month, prices, sums, tables
from .database import reading
from .month import Due, Use
from .prices import Money, PriceBook
from .questions import Question
from .shelf import read_books

_USAGE = tables.usage.c


@dataclass(frozen=True, slots=True)
class Row:
    """One function's calls."""

    function: str
    calls: int
    price: Money  # list price, as they were priced
    other: Money  # list price under the other book


@dataclass(frozen=True, slots=True)
class Comparison:
    """All functions, the dearest first, and what a month of all of it costs: free tiers and volume tiers included."""

    rows: tuple[Row, ...]
    due: Due
    other_due: Due

    def to_dict(self, book: PriceBook, name: str, currency: str) -> dict[str, Any]:
        rows = [
            {
                "function": row.function,
                "calls": row.calls,
                "price": prices.text(row.price),
                name: prices.text(row.other),
            }
            for row in self.rows
        ]
        return {
            "compared_with": {"book": name, "name": book.name, "currency": book.currency},
            "currency": currency,
            "rows": rows,
            "calls": sum(row.calls for row in self.rows),
            "list_price": {"price": prices.text(self.due.list_price), name: prices.text(self.other_due.list_price)},
            "total": {"price": prices.text(self.due.total), name: prices.text(self.other_due.total)},
        }


def compare(engine: Engine, question: Question, other: PriceBook) -> Comparison:
    """Blocking. Raises Unavailable."""
    assert question.tenant is not None
    billed = _billed_ms(other)
    query = select(
        _USAGE.function,
        tables.functions.c.name,
        tables.variants.c.runtime,
        _USAGE.book,
        func.count().label("calls"),
        func.sum(case((_USAGE.billed_ms > 0, 1), else_=0)).label("charged"),
        func.sum(_USAGE.memory_mb * _USAGE.billed_ms).label("mb_ms"),
        func.sum(cast(_USAGE.memory_mb, BigInteger) * billed).label("other_mb_ms"),
    )
    query = query.outerjoin(tables.functions, _USAGE.function == tables.functions.c.id)
    query = query.outerjoin(tables.variants, _USAGE.variant == tables.variants.c.id)
    with reading(engine) as connection:
        books = read_books(connection)
        query = attempts.matching(query, question, connection).group_by(
            _USAGE.function, tables.functions.c.name, tables.variants.c.runtime, _USAGE.book
        )
        found = connection.execute(query).all()
        kept = _kept_ready(connection, question, books)
    rows: dict[str, Row] = {}
    uses, other_uses = [], []
    for row in found:
        uses.append(Use(books[row.book], row.runtime, int(row.charged), int(row.mb_ms)))
        other_uses.append(Use(other, row.runtime, int(row.charged), int(row.other_mb_ms)))
        before = rows.get(row.name, Row(row.name, 0, Money(0), Money(0)))
        rows[row.name] = Row(
            row.name,
            before.calls + row.calls,
            Money(before.price + uses[-1].book.price(uses[-1].mb_ms, uses[-1].charged, question.tenant, row.runtime)),
            Money(before.other + other.price(int(row.other_mb_ms), int(row.charged), "", row.runtime)),
        )
    for name, runtime, book, mb_ms in kept:
        uses.append(Use(books[book], runtime, 0, 0, mb_ms))
        other_uses.append(Use(other, runtime, 0, 0, mb_ms))
        before = rows.get(name, Row(name, 0, Money(0), Money(0)))
        rows[name] = Row(
            name,
            before.calls,
            Money(before.price + books[book].rates_for(question.tenant, runtime).provisioned_price(mb_ms)),
            Money(before.other + other.rates_for("", runtime).provisioned_price(mb_ms)),
        )
    return Comparison(
        tuple(sorted(rows.values(), key=lambda one: (-one.price, one.function))),
        month.due(question.tenant, uses),
        month.due("", other_uses),
    )


def _kept_ready(
    connection: Connection, question: Question, books: Mapping[int, PriceBook]
) -> list[tuple[str, str, int, int]]:
    """(function, runtime, price book, MB·ms) of instances kept ready: nothing of it is rounded, so sums will do."""
    part, names = sums.matching(question, books), sums.Names(connection)
    keys = {name: part.c[name] for name in ("function", "variant", "book")}
    return [
        (names.functions[row.function][1], names.variants[row.variant][0], row.book, int(row.provisioned_mb_ms))
        for row in connection.execute(sums.added_up(part, keys))
        if row.provisioned_mb_ms
    ]


def _billed_ms(book: PriceBook) -> ColumnElement[int]:
    """meter.billed_ms as SQL: whole numbers only, and the same result."""
    used = _USAGE.duration_us + _USAGE.init_us if book.bill_init else _USAGE.duration_us
    minimum_us = max(1, book.minimum_ms * 1000)
    step_us = literal_column(str(book.step_ms * 1000), BigInteger)
    rounded = case((used < minimum_us, literal_column(str(minimum_us), BigInteger)), else_=used) + step_us - 1
    return case((_USAGE.billed_ms > 0, rounded // step_us * book.step_ms), else_=0)
