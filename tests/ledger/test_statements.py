"""Statements of months: what is closed stays as it was, and what comes late is on the next one, marked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from gateway.ledger import bookfile, database, months, questions, statements
from gateway.ledger.questions import By, Question
from jiffy.contract.errors import Conflict
from jiffy.contract.messages import Outcome, Usage
from tests.ledger.records import NOON_MS, record
from tests.ledger.test_questions import DAY_MS, MANY_PRICES, Desk

OCTOBER, NOVEMBER, DECEMBER = (months.parse(f"2026-{n}") for n in (10, 11, 12))
IN_OCTOBER_MS, IN_DECEMBER_MS = NOON_MS - 3 * DAY_MS, NOON_MS + 35 * DAY_MS
BOOKS = MANY_PRICES.replace("bill_init = true", 'bill_init = true\nfree_calls = 3\nfree_gb_seconds = "0.5"')


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    one = database.connect(database_url)
    yield one
    one.dispose()


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine, bookfile.parse(BOOKS))


def _of(engine: Engine, month: int, tenant: str = "default") -> dict[str, Any]:
    return statements.statement(engine, tenant, month, IN_DECEMBER_MS)


def test_an_open_month_grows_and_a_closed_one_does_not(desk: Desk, engine: Engine) -> None:
    desk.settle(record(started_ms=IN_OCTOBER_MS))
    assert _of(engine, OCTOBER)["number"] is None and _of(engine, OCTOBER)["sum"]["calls"] == 1
    desk.settle(record(started_ms=IN_OCTOBER_MS))
    closed = statements.close(engine, "default", OCTOBER, IN_DECEMBER_MS)
    assert (closed["number"], closed["sum"]["calls"], closed["closed"]) == (1, 2, "2026-12-06T12:00:00.000Z")
    desk.settle(record(started_ms=IN_OCTOBER_MS))
    assert _of(engine, OCTOBER) == closed
    assert statements.close(engine, "default", OCTOBER, IN_DECEMBER_MS + 1) == closed


def test_what_comes_late_is_on_the_next_open_months_bill_and_marked(desk: Desk, engine: Engine) -> None:
    desk.settle(record("a", started_ms=IN_OCTOBER_MS), record("b", started_ms=NOON_MS))
    for month in (OCTOBER, NOVEMBER):
        statements.close(engine, "default", month, IN_DECEMBER_MS)
    late = record("late", started_ms=IN_OCTOBER_MS, duration_us=250_000)
    desk.settle(late, late, record("other", tenant="other", started_ms=IN_OCTOBER_MS))
    december = _of(engine, DECEMBER)
    assert december["sum"]["calls"] == december["late"]["calls"] == 1
    [row] = desk.ask(month=DECEMBER).rows
    assert (row.to_dict()["function"], row.to_dict()["late"]) == ("late", "2026-12")
    assert [one.position for one in desk.ask(by=By.MONTH).rows] == ["2026-12", "2026-11", "2026-10"]
    assert _of(engine, OCTOBER, "other")["sum"]["calls"] == 1  # another tenant's October is open


def test_statements_are_numbered_without_a_gap(desk: Desk, engine: Engine) -> None:
    for tenant, month in (("a", NOVEMBER), ("b", OCTOBER), ("a", OCTOBER)):
        statements.close(engine, tenant, month, IN_DECEMBER_MS)
    listed = [(one["number"], one["month"]) for one in statements.all_closed(engine, "a")]
    assert listed == [(1, "2026-11"), (3, "2026-10")]


def test_a_month_that_goes_on_cannot_be_closed(desk: Desk, engine: Engine) -> None:
    ends_ms = months.bounds_ms(NOVEMBER)[1]
    with pytest.raises(Conflict, match="2026-11 is not over: it can be closed from 2026-12-01T00:00"):
        statements.close(engine, "default", NOVEMBER, ends_ms - 1)
    assert statements.close(engine, "default", NOVEMBER, ends_ms)["number"] == 1


MONTH_USES = st.lists(
    st.builds(
        record,
        st.sampled_from(["a", "b"]),
        started_ms=st.sampled_from([IN_OCTOBER_MS, NOON_MS - 3 * 3_600_000, NOON_MS, IN_DECEMBER_MS]),
        runtime=st.sampled_from(["python3.11", "python3.12", "node22"]),
        outcome=st.sampled_from(list(Outcome)),
        duration_us=st.integers(0, 90_000_000),
        memory_mb=st.integers(64, 10_240),
        cold=st.booleans(),
    ),
    max_size=15,
)


@settings(max_examples=25, deadline=None)
@given(MONTH_USES, MONTH_USES, st.booleans())
def test_every_call_is_on_exactly_one_statement_and_its_parts_add_up(
    before: list[Usage], after: list[Usage], closing: bool
) -> None:
    engine = database.connect("sqlite://")
    desk = Desk(engine, bookfile.parse(BOOKS))
    desk.settle(*before)
    if closing:
        statements.close(engine, "default", OCTOBER, IN_DECEMBER_MS)
    desk.settle(*after)
    found = [_of(engine, month) for month in (OCTOBER, NOVEMBER, DECEMBER)]
    total = questions.answer(engine, Question("default", By.TOTAL)).total.to_dict()
    engine.dispose()
    with localcontext(prec=100):
        assert sum(Decimal(one["list_price"]) for one in found) == Decimal(str(total["price"]))
        for one in found:
            assert Decimal(one["total"]) == Decimal(one["list_price"]) + _added(one["adjustments"])
            for part in ("lines", "functions", "days", "triggers"):
                assert _added(one[part]) == Decimal(one["list_price"]) == Decimal(one["sum"]["price"])
                assert sum(row["calls"] for row in one[part]) == one["sum"]["calls"]
    assert sum(one["sum"]["calls"] for one in found) == len(before) + len(after)


def _added(rows: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(row["price"]) for row in rows), Decimal(0))


def test_advice_says_what_less_memory_would_save(desk: Desk, engine: Engine) -> None:
    small, big = 23_000_000, 400 * 2**20
    make: Callable[..., Usage] = lambda name, peak, **more: record(name, **more)._replace(max_memory_bytes=peak)  # noqa: E731
    desk.settle(*(make("wide", small, memory_mb=512, revision=2) for _ in range(10)))
    desk.settle(*(make("wide", big, memory_mb=512, revision=1) for _ in range(10)))  # was changed since
    desk.settle(*(make("fit", big, memory_mb=512) for _ in range(10)))
    desk.settle(*(make("rare", small, memory_mb=512) for _ in range(9)))
    [advice] = _of(engine, NOVEMBER)["advice"]
    assert (advice["function"], advice["revision"], advice["memory_mb"], advice["suggested_mb"]) == ("wide", 2, 512, 64)
    assert Decimal(advice["saving"]) == Decimal(advice["price"]) * 448 / 512  # the call itself is free in this book
