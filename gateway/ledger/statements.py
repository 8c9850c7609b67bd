"""The statement of a tenant's month: written anew at every look while it is open, frozen and numbered once closed.

Closing happens under the lock that settling takes, so an attempt is either in the statement or comes after it. One that
comes after it stands on the bill of the next month that is open, marked `late`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select

from jiffy.contract.errors import Conflict

from . import advice, month, months, prices, sums, tables
from .database import lock, reading, writing
from .lines import moment_text, ms_text, nothing
from .prices import PriceBook
from .questions import By, Question
from .shelf import read_books


def statement(engine: Engine, tenant: str, of: int, now_ms: int) -> dict[str, Any]:
    """The statement of a month (months.py): as it was closed, or as it stands now. Blocking; raises Unavailable."""
    with reading(engine) as connection:
        return _closed(connection, tenant, of) or _write(connection, tenant, of, now_ms)


def all_closed(engine: Engine, tenant: str) -> list[dict[str, Any]]:
    """Number, month, time and total of every closed month, the newest first."""
    query = select(tables.statements.c.document).where(tables.statements.c.tenant == tenant)
    with reading(engine) as connection:
        documents = [json.loads(text) for text in connection.scalars(query.order_by(tables.statements.c.month.desc()))]
    return [{key: one[key] for key in ("number", "month", "closed", "currency", "total")} for one in documents]


def close(engine: Engine, tenant: str, of: int, now_ms: int) -> dict[str, Any]:
    """Closes a month; returns its statement. A closed one is returned as it is. Raises Conflict while it goes on."""
    ends_ms = months.bounds_ms(of)[1]
    if now_ms < ends_ms:
        raise Conflict(f"{months.text(of)} is not over: it can be closed from {moment_text(ends_ms)} on")
    with writing(engine) as connection:
        lock(connection)
        known = _closed(connection, tenant, of)
        if known is not None:
            return known
        number = (connection.scalar(select(func.max(tables.statements.c.number))) or 0) + 1
        document = _write(connection, tenant, of, now_ms) | {"number": number, "closed": moment_text(now_ms)}
        row = {"number": number, "tenant": tenant, "month": of, "closed_ms": now_ms, "document": json.dumps(document)}
        connection.execute(insert(tables.statements).values(row))
        return document


def closed_months(connection: Connection) -> dict[str, set[int]]:
    """tenant → months that are closed."""
    found: dict[str, set[int]] = {}
    for tenant, of in connection.execute(select(tables.statements.c.tenant, tables.statements.c.month)):
        found.setdefault(tenant, set()).add(of)
    return found


def billed_in(started_ms: int, closed: set[int]) -> int:
    """The month on whose bill an attempt stands when its own is closed; 0: its own."""
    own = stands = months.of(started_ms)
    while stands in closed:
        stands += 1
    return 0 if stands == own else stands


def _closed(connection: Connection, tenant: str, of: int) -> dict[str, Any] | None:
    row = tables.statements.c
    text = connection.scalar(select(row.document).where(row.tenant == tenant, row.month == of))
    return None if text is None else dict(json.loads(text))


def _write(connection: Connection, tenant: str, of: int, now_ms: int) -> dict[str, Any]:
    books = read_books(connection)
    question = Question(tenant, By.TOTAL, month=of)
    since_ms, until_ms = months.bounds_ms(of)
    uses, lines = _uses(connection, question, tenant, books)
    due = month.due(tenant, uses)
    parts = {by: sums.by_key(connection, replace(question, by=by), books) for by in (By.FUNCTION, By.DAY, By.TRIGGER)}
    late = sums.by_key(connection, question, books, late_only=True)
    return {
        "number": None,
        "closed": None,
        "tenant": tenant,
        "month": months.text(of),
        "since": moment_text(since_ms),
        "until": moment_text(until_ms),
        "as_of": moment_text(now_ms),
        "currency": next(iter(books.values())).currency,
        "lines": lines,
        "sum": nothing().plus_all(parts[By.FUNCTION]).to_dict(),
        "list_price": prices.text(due.list_price),
        "adjustments": _adjustments(due),
        "total": prices.text(due.total),
        "functions": [row.to_dict() for row in sorted(parts[By.FUNCTION], key=lambda one: (-one.price, one.name))],
        "days": [row.to_dict() for row in sorted(parts[By.DAY], key=lambda one: one.name)],
        "triggers": [row.to_dict() for row in sorted(parts[By.TRIGGER], key=lambda one: (-one.price, one.name))],
        "late": nothing().plus_all(late).to_dict(),
        "advice": [one.to_dict() for one in advice.of(connection, question, books)],
    }


def _uses(
    connection: Connection, question: Question, tenant: str, books: Mapping[int, PriceBook]
) -> tuple[list[month.Use], list[dict[str, Any]]]:
    """The month's use per book and runtime, and the same as lines of the statement."""
    groups = sums.by_rate(connection, question, books)
    uses, lines = [], []
    for (version, runtime), one in sorted(groups.items()):
        book = books[version]
        rates = book.rates_for(tenant, runtime)
        uses.append(month.Use(book, runtime, one.charged, one.mb_ms, one.provisioned_mb_ms))
        lines.append(
            {
                "price_book": version,
                "runtime": runtime,
                "calls": one.calls,
                "charged_calls": one.charged,
                "billed_ms": one.billed_ms,
                "rounding_ms": ms_text(one.rounding_us),
                "gb_seconds": prices.gb_seconds_text(one.mb_ms),
                "per_gb_second": format(rates.per_gb_second, "f"),
                "per_call": format(rates.per_call, "f"),
                "provisioned_gb_seconds": prices.gb_seconds_text(one.provisioned_mb_ms),
                "idle_gb_seconds": prices.gb_seconds_text(one.idle_mb_ms),
                "per_provisioned_gb_second": format(rates.per_provisioned_gb_second, "f"),
                "calls_price": prices.text(one.of_calls.price),
                "provisioned_price": prices.text(one.provisioned_price),
                "price": prices.text(one.price),
            }
        )
    return uses, lines


def _adjustments(due: month.Due) -> list[dict[str, str]]:
    """What is taken off the list price; only what is."""
    rows = (
        ("free GB-seconds", prices.gb_seconds_text(due.free_mb_ms), due.free_mb_ms, due.free_mb_ms_price),
        ("free calls", str(due.free_calls), due.free_calls, due.free_calls_price),
        ("volume", prices.gb_seconds_text(due.volume_mb_ms), due.volume_mb_ms, due.volume_price),
    )
    return [{"name": name, "quantity": text, "price": prices.text(-price)} for name, text, some, price in rows if some]
