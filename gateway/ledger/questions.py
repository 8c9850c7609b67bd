"""Questions to the ledger. A page and its total come from one moment, so they always agree.

Calls come from the attempts themselves (attempts.py), everything else from the sums by the hour (sums.py); both are
priced in whole numbers (prices.py), so the sum over any breakdown is the total. Pages follow a key, never an offset:
new rows shift nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Engine

from . import attempts, sums
from .database import reading
from .lines import FREE, Attempt, Sum, nothing
from .prices import Money, PriceBook
from .shelf import read_books


class By(StrEnum):
    """What one row of the answer stands for."""

    CALL = "call"
    FUNCTION = "function"
    REVISION = "revision"
    ROUTE = "route"
    TRIGGER = "trigger"
    TENANT = "tenant"
    TAG = "tag"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Question:
    """Which attempts, and how to break them down. Times are epoch milliseconds on the start of an attempt."""

    tenant: str | None  # None: all of them
    by: By = By.CALL
    function: str | None = None
    since_ms: int | None = None  # inclusive
    until_ms: int | None = None  # exclusive
    month: int | None = None  # what stands on the bill of this month (months.py), in place of a span
    tag: str | None = None  # by tag: whose values; None: all tags together
    dearest: bool = False  # by call: the most expensive ones first, and no further page
    limit: int = 100
    after: str | None = None  # `position` of the last row of the page before


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of rows, and the sum over everything that matches."""

    rows: tuple[Attempt, ...] | tuple[Sum, ...]
    total: Sum
    next: str | None  # the `after` of the next page
    provisioned_price: Money = FREE  # by call: what kept instances ready meanwhile, which is no call and not in `total`


def answer(engine: Engine, question: Question, with_total: bool = True) -> Answer:
    """Blocking. Raises Unavailable; ValueError when `after` is no position of such rows.

    Without its total an answer about calls is quicker; the total then is that of nothing.
    """
    with reading(engine) as connection:
        books = read_books(connection)
        if question.by is not By.CALL:
            return _sums(connection, question, books)
        if question.dearest:
            found = attempts.dearest(connection, question, books)
            page, following = found, None
        else:
            found = attempts.newest(connection, question, books)
            page, following = found[: question.limit], _next(found, question.limit)
        total = nothing().plus_all(sums.by_key(connection, question, books)) if with_total else nothing()
        return Answer(tuple(page), total.of_calls, following, total.provisioned_price)


def invocation(engine: Engine, tenant: str, invocation_id: str) -> list[Attempt]:
    """All attempts at one invocation, in order; none when the id is unknown or no UUID."""
    with reading(engine) as connection:
        return attempts.of_invocation(connection, tenant, invocation_id, read_books(connection))


def _sums(connection: Connection, question: Question, books: Mapping[int, PriceBook]) -> Answer:
    groups = sums.by_key(connection, question, books)
    total = nothing().plus_all(groups)
    if question.by is By.TOTAL:
        return Answer((total,), total, None)
    newest_first = question.by in sums.NEWEST_FIRST
    rows = sorted(groups, key=lambda one: sums.rank(question, one.name), reverse=newest_first)
    if question.after is not None:
        last = sums.rank(question, question.after)
        rank = [sums.rank(question, one.name) for one in rows]
        rows = [one for one, at in zip(rows, rank, strict=True) if (at < last if newest_first else at > last)]
    return Answer(tuple(rows[: question.limit]), total, _next(rows, question.limit))


def _next(found: list[Attempt] | list[Sum], limit: int) -> str | None:
    return found[limit - 1].position if len(found) > limit else None
