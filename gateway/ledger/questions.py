"""Questions to the ledger and their SQL. A page and its total come from one moment, so they always agree.

Sums are formed in SQL, per price book; what they cost is multiplied here, in whole numbers (prices.py). Prices are
linear, so the sum over any breakdown is the total. Pages follow a key, never an offset: new rows shift nothing.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Row,
    Select,
    alias,
    case,
    func,
    literal_column,
    select,
    tuple_,
)

from . import tables
from .lines import Attempt, Sum, day_text, nothing
from .prices import Money, PriceBook

_USAGE = tables.usage.c
_TRIGGERS = alias(tables.labels, "triggers")
_OUTCOMES = {number: outcome.value for outcome, number in tables.OUTCOMES.items()}
_DAY = (_USAGE.started_ms // literal_column("86400000", BigInteger)).label("day")


class By(StrEnum):
    """What one row of the answer stands for."""

    CALL = "call"
    FUNCTION = "function"
    DAY = "day"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Question:
    """Which attempts, and how to break them down. Times are epoch milliseconds on the start of an attempt."""

    tenant: str
    by: By = By.CALL
    function: str | None = None
    since_ms: int | None = None  # inclusive
    until_ms: int | None = None  # exclusive
    limit: int = 100
    after: str | None = None  # `position` of the last row of the page before


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of rows, and the sum over everything that matches."""

    rows: tuple[Attempt, ...] | tuple[Sum, ...]
    total: Sum
    next: str | None  # the `after` of the next page


def answer(engine: Engine, question: Question) -> Answer:
    """Blocking. Raises Unavailable; ValueError when `after` is no position of such rows."""
    with tables.reading(engine) as connection:
        books = read_books(connection)
        total = _add(nothing(), connection.execute(_sums(question)).all(), books)
        if question.by is By.TOTAL:
            return Answer((total,), total, None)
        if question.by is By.CALL:
            found = _attempts(connection, question, books)
            return Answer(tuple(found[: question.limit]), total, _next(found, question.limit))
        groups = _groups(connection, question, books)
        return Answer(tuple(groups[: question.limit]), total, _next(groups, question.limit))


def invocation(engine: Engine, tenant: str, invocation_id: str) -> list[Attempt]:
    """All attempts at one invocation, in order; none when the id is unknown or no UUID."""
    try:
        key = uuid.UUID(invocation_id).bytes
    except ValueError:
        return []
    query = _select_attempts().where(tables.functions.c.tenant == tenant, _USAGE.invocation == key)
    with tables.reading(engine) as connection:
        books = read_books(connection)
        return [_attempt(row, books) for row in connection.execute(query.order_by(_USAGE.attempt))]


def read_books(connection: Connection) -> dict[int, PriceBook]:
    """All price books by which anything was or may be priced."""
    return {
        row.version: PriceBook(
            row.version,
            row.effective_from_ms,
            row.currency,
            Decimal(row.per_gb_second),
            Decimal(row.per_call),
            row.step_ms,
        )
        for row in connection.execute(select(tables.price_books))
    }


def _matching(query: Select[Any], question: Question) -> Select[Any]:
    query = query.where(tables.functions.c.tenant == question.tenant)
    if question.function is not None:
        query = query.where(tables.functions.c.name == question.function)
    if question.since_ms is not None:
        query = query.where(_USAGE.started_ms >= question.since_ms)
    if question.until_ms is not None:
        query = query.where(_USAGE.started_ms < question.until_ms)
    return query


def _select_attempts() -> Select[Any]:
    return (
        select(tables.usage, tables.functions.c.name.label("function_name"), _TRIGGERS.c.text.label("trigger_text"))
        .join(tables.functions, _USAGE.function == tables.functions.c.id)
        .join(_TRIGGERS, _USAGE.trigger == _TRIGGERS.c.id)
    )


def _attempts(connection: Connection, question: Question, books: dict[int, PriceBook]) -> list[Attempt]:
    """Newest first; one more than the page holds, where there are more."""
    order = (_USAGE.started_ms, _USAGE.invocation, _USAGE.attempt)
    query = _matching(_select_attempts(), question)
    if question.after is not None:
        started, invocation_hex, attempt = question.after.split(".")
        query = query.where(tuple_(*order) < tuple_(int(started), bytes.fromhex(invocation_hex), int(attempt)))
    query = query.order_by(*(column.desc() for column in order)).limit(question.limit + 1)
    return [_attempt(row, books) for row in connection.execute(query)]


def _attempt(row: Row[Any], books: dict[int, PriceBook]) -> Attempt:
    return Attempt(
        invocation=str(uuid.UUID(bytes=bytes(row.invocation))),
        attempt=row.attempt,
        started_ms=row.started_ms,
        function=row.function_name,
        revision=row.revision,
        trigger=row.trigger_text,
        outcome=_OUTCOMES[row.outcome],
        cold=bool(row.cold),
        duration_us=row.duration_us,
        billed_ms=row.billed_ms,
        init_us=row.init_us,
        queue_us=row.queue_us,
        memory_mb=row.memory_mb,
        max_memory_bytes=row.max_memory_bytes,
        cpu_us=row.cpu_us,
        bytes_in=row.bytes_in,
        bytes_out=row.bytes_out,
        price=books[row.book].price(row.memory_mb * row.billed_ms, int(row.billed_ms > 0)),
        book=row.book,
    )


def _sums(question: Question, *keys: Any) -> Select[Any]:
    """Sums per key and price book. Charged is what has billed time."""
    charged = _USAGE.billed_ms > 0
    query = select(
        *keys,
        _USAGE.book,
        func.count().label("calls"),
        func.sum(case((charged, 1), else_=0)).label("charged"),
        func.sum(_USAGE.cold).label("cold"),
        func.sum(_USAGE.duration_us).label("duration_us"),
        func.sum(case((charged, _USAGE.duration_us), else_=0)).label("charged_us"),
        func.sum(_USAGE.billed_ms).label("billed_ms"),
        func.sum(_USAGE.memory_mb * _USAGE.billed_ms).label("mb_ms"),
    ).join(tables.functions, _USAGE.function == tables.functions.c.id)
    return _matching(query, question).group_by(*keys, _USAGE.book)


def _groups(connection: Connection, question: Question, books: dict[int, PriceBook]) -> list[Sum]:
    """Functions by name, days newest first; one more than the page holds, where there are more."""
    by_day = question.by is By.DAY
    key = _DAY if by_day else tables.functions.c.name.label("name")
    query = _sums(question, key).order_by(key.desc() if by_day else key)
    if question.after is not None:
        query = query.where(key < _day_number(question.after) if by_day else key > question.after)
    query = query.limit((question.limit + 1) * max(1, len(books)))  # a key may have a row of every book
    groups: dict[str, Sum] = {}
    for row in connection.execute(query):
        name = day_text(int(row[0])) if by_day else row[0]
        groups[name] = _add(groups.get(name) or nothing(question.by.value, name), [row], books)
    return list(groups.values())[: question.limit + 1]


def _day_number(text: str) -> int:
    return dt.date.fromisoformat(text).toordinal() - dt.date(1970, 1, 1).toordinal()


def _add(to: Sum, rows: Any, books: dict[int, PriceBook]) -> Sum:
    for row in rows:
        charged, billed_ms, mb_ms = int(row.charged), int(row.billed_ms), int(row.mb_ms)
        to = to.plus(
            Sum(
                column="",
                name="",
                calls=int(row.calls),
                charged=charged,
                cold=int(row.cold),
                duration_us=int(row.duration_us),
                rounding_us=billed_ms * 1000 - int(row.charged_us),
                billed_ms=billed_ms,
                mb_ms=mb_ms,
                price=Money(books[row.book].price(mb_ms, charged)),
                books=(row.book,),
            )
        )
    return to


def _next(found: list[Attempt] | list[Sum], limit: int) -> str | None:
    return found[limit - 1].position if len(found) > limit else None
