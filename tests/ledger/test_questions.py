"""What the ledger answers: breakdowns that add up, pages that miss nothing, days that end at midnight UTC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from gateway.ledger import bookfile, database, prices, questions, shelf
from gateway.ledger.lines import Sum
from gateway.ledger.prices import PriceList
from gateway.ledger.questions import Answer, By, Question
from gateway.ledger.settle import Settler
from jiffy.contract.messages import Outcome, Provision, Usage
from tests.ledger.records import NOON_MS, MemoryFeed, minute, record
from tests.ledger.test_prices import TWO_BOOKS

DAY_MS = 86_400_000
DAY_0_MS = NOON_MS - DAY_MS // 2  # 2026-11-01T00:00:00Z
CHANGE_MS = NOON_MS - 3_600_000  # when book 2 of TWO_BOOKS begins to hold
ALL = Question("default", limit=10_000)


class Desk:
    """A database, and a settler that is fed by hand."""

    def __init__(self, engine: Engine, price_list: PriceList) -> None:
        shelf.publish(engine, price_list)
        self._engine, self._feed = engine, MemoryFeed()
        self._settler = Settler(engine, self._feed, price_list, lambda: NOON_MS)

    def settle(self, *records: Usage | Provision) -> None:
        self._feed.put(*records)
        while self._settler.step().read:
            pass

    def ask(self, question: Question = ALL, **changed: object) -> Answer:
        return questions.answer(self._engine, replace(question, **changed))  # type: ignore[arg-type]

    def pages(self, limit: int, **changed: object) -> Iterator[Answer]:
        after = None
        while True:
            page = self.ask(limit=limit, after=after, **changed)
            yield page
            after = page.next
            if after is None:
                return


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    one = database.connect(database_url)
    yield one
    one.dispose()


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine, bookfile.parse(TWO_BOOKS))


USAGES = st.lists(
    st.builds(
        record,
        st.sampled_from(["a", "b", "a-b"]),
        started_ms=st.one_of(
            st.integers(DAY_0_MS - 2 * DAY_MS, DAY_0_MS + 2 * DAY_MS),
            st.sampled_from([DAY_0_MS - 1, DAY_0_MS, CHANGE_MS - 1, CHANGE_MS]),
        ),
        revision=st.integers(1, 11),
        trigger=st.sampled_from(["http", "invoke", "route GET /x", "route GET /y/{z}"]),
        runtime=st.sampled_from(["python3.11", "python3.12", "node22", ""]),
        tags=st.sampled_from(["", "team=x", "stage=prod,team=y"]),
        tenant=st.sampled_from(["default", "acme"]),
        outcome=st.sampled_from(list(Outcome)),
        duration_us=st.integers(0, 900_000_000),
        memory_mb=st.integers(64, 10_240),
        cold=st.booleans(),
        attempt=st.integers(1, 4),
    ),
    max_size=20,
)


MINUTES = st.lists(
    st.builds(
        minute,
        st.sampled_from(["a", "kept"]),
        started_ms=st.integers((DAY_0_MS - 2 * DAY_MS) // 60_000, (DAY_0_MS + 2 * DAY_MS) // 60_000).map(
            lambda minute: minute * 60_000
        ),
        revision=st.integers(1, 11),
        runtime=st.sampled_from(["python3.11", "python3.12", "node22"]),
        tags=st.sampled_from(["", "team=x", "stage=prod,team=y"]),
        tenant=st.sampled_from(["default", "acme"]),
        provisioned_ms=st.integers(0, 6_000_000),
        idle_ms=st.integers(0, 6_000_000),
        memory_mb=st.integers(64, 10_240),
    ),
    max_size=10,
)
KEPT_READY = ("provisioned_gb_seconds", "idle_gb_seconds", "provisioned_price")
SPANS = st.tuples(*[st.one_of(st.none(), st.integers(DAY_0_MS - DAY_MS, DAY_0_MS + DAY_MS))] * 2)
MANY_PRICES = """
currency = "EUR"
[[book]]
version = 1
effective_from = 1970-01-01
per_gb_second = "0.00001"
per_call = "0.0000002"
per_provisioned_gb_second = "0.0000041667"
bill_init = true
[book.runtimes.python]
per_gb_second = "0.000007"
[book.runtimes."python3.12"]
per_call = "0"
per_provisioned_gb_second = "0.00000012345678901"
[book.tenants.acme]
per_gb_second = "0.00000123456789012"
[[book]]
version = 2
effective_from = 2026-11-01T12:00:00+01:00
per_gb_second = "0.00003"
per_call = "0"
step_ms = 1
"""


@settings(max_examples=40, deadline=None)
@given(USAGES, MINUTES, st.integers(1, 7), SPANS)
def test_every_breakdown_adds_up_to_the_total_to_the_last_digit(
    usages: list[Usage], minutes: list[Provision], limit: int, span: tuple[int | None, int | None]
) -> None:
    """Over any span: of whole hours, of parts of them, of less than one. A list of calls has calls alone."""
    since, until = span
    with _fresh_desk(MANY_PRICES) as desk:
        desk.settle(*usages, *minutes)
        for tenant in ("default", None):
            where: dict[str, object] = {"tenant": tenant, "since_ms": since, "until_ms": until}
            total = desk.ask(by=By.TOTAL, **where).total
            in_span = [u for u in usages if (since or 0) <= u.started_ms < (until or 2**50)]
            assert total.calls == sum(tenant in (None, u.tenant) for u in in_span)
            kept = [one for one in minutes if (since or 0) <= one.started_ms < (until or 2**50)]
            kept = [one for one in kept if tenant in (None, one.tenant)]
            assert total.provisioned_mb_ms == sum(one.memory_mb * one.provisioned_ms for one in kept)
            assert total.idle_mb_ms == sum(one.memory_mb * one.idle_ms for one in kept)
            for by, tag in [*((by, None) for by in By), (By.TAG, "team")]:
                pages = list(desk.pages(limit, by=by, tag=tag, **where))
                expected = total.of_calls if by is By.CALL else total
                assert {page.total for page in pages} == {expected}
                rows = [row.to_dict() for page in pages for row in page.rows]
                for key in ("duration_ms", "billed_ms", "init_ms", "gb_seconds", "price", *KEPT_READY):
                    with localcontext(prec=100):
                        added = sum(Decimal(str(row.get(key, 0))) for row in rows)
                        assert added == Decimal(str(expected.to_dict()[key])), (by, key)


@settings(max_examples=25, deadline=None)
@given(USAGES)
def test_an_attempt_costs_the_same_alone_and_among_others(usages: list[Usage]) -> None:
    expected = 0
    books = bookfile.parse(MANY_PRICES)
    for one in usages:
        if Outcome(one.outcome).billable:
            book = books.at(one.started_ms)
            expected += book.price(one.memory_mb * one.billed_ms, 1, one.tenant, one.runtime)
    with _fresh_desk(MANY_PRICES) as desk:
        desk.settle(*usages)
        assert desk.ask(by=By.TOTAL, tenant=None).total.price == expected


@contextmanager
def _fresh_desk(books: str) -> Iterator[Desk]:
    """One for every example that hypothesis tries; in memory, so that trying many stays quick."""
    engine = database.connect("sqlite://")
    try:
        yield Desk(engine, bookfile.parse(books))
    finally:
        engine.dispose()


def test_calls_come_newest_first_and_pages_miss_none(desk: Desk) -> None:
    usages = [record(started_ms=NOON_MS + n // 3) for n in range(20)]  # several at the same moment
    desk.settle(*usages)
    rows = [row for page in desk.pages(3) for row in page.rows]
    wanted = sorted(usages, key=lambda u: (u.started_ms, u.invocation), reverse=True)
    assert [row.to_dict()["invocation"] for row in rows] == [u.invocation for u in wanted]


def test_a_page_follows_its_key_while_new_calls_arrive(desk: Desk) -> None:
    desk.settle(*(record(started_ms=NOON_MS + n) for n in range(4)))
    first = desk.ask(limit=2)
    desk.settle(record(started_ms=NOON_MS + 10))
    second = desk.ask(limit=2, after=first.next)
    moments = [row.to_dict()["started"] for page in (first, second) for row in page.rows]
    assert [str(moment)[-5:-1] for moment in moments] == [".003", ".002", ".001", ".000"]


def test_a_row_tells_the_whole_attempt(desk: Desk) -> None:
    one = record(
        "thumbnail",
        revision=7,
        trigger="route POST /thumbnail",
        cold=True,
        duration_us=104_203,
        memory_mb=256,
        tags="team=x",
    )
    desk.settle(one)
    [row] = desk.ask().rows
    assert row.to_dict() == {
        "invocation": one.invocation,
        "attempt": 1,
        "started": "2026-11-01T12:00:00.000Z",
        "function": "thumbnail",
        "revision": 7,
        "trigger": "route POST /thumbnail",
        "outcome": "ok",
        "cold": True,
        "duration_ms": "104.203",
        "billed_ms": 200,
        "init_ms": "31.000",
        "queue_ms": "0.120",
        "memory_mb": 256,
        "max_memory_bytes": 23_000_000,
        "cpu_ms": "1.800",
        "bytes_in": 20,
        "bytes_out": 300,
        "gb_seconds": "0.05",
        "price": "0.0000015",
        "price_book": 2,
        "runtime": "python3.11",
        "tags": "team=x",
        "late": "",
    }


def test_days_end_at_midnight_utc(desk: Desk) -> None:
    desk.settle(*(record(started_ms=at) for at in (DAY_0_MS - 1, DAY_0_MS, DAY_0_MS + DAY_MS - 1, DAY_0_MS + DAY_MS)))
    rows = [row.to_dict() for row in desk.ask(by=By.DAY).rows]
    assert [(row["day"], row["calls"]) for row in rows] == [("2026-11-02", 1), ("2026-11-01", 2), ("2026-10-31", 1)]


def test_the_dearest_calls_come_first(desk: Desk) -> None:
    sizes = [(128, 100), (512, 90_000), (128, 700_000), (1024, 1), (64, 2)]
    desk.settle(*(record(memory_mb=mb, duration_us=ms * 1000, runtime=f"python3.{ms % 2}") for mb, ms in sizes))
    desk.settle(record(outcome=Outcome.THROTTLED))
    found = desk.ask(dearest=True, limit=3)
    assert [row.to_dict()["memory_mb"] for row in found.rows] == [128, 512, 1024]
    assert found.next is None and found.total.calls == 6


def test_breakdowns_have_names_that_people_know(desk: Desk) -> None:
    desk.settle(
        record("a", revision=2, trigger="route GET /x", tags="stage=prod,team=x"),
        record("a", revision=10, trigger="http", started_ms=NOON_MS - 40 * DAY_MS),
    )
    names = {by: [row.position for row in desk.ask(by=by).rows] for by in By if by not in (By.CALL, By.TOTAL)}
    assert names == {
        By.FUNCTION: ["a"],
        By.REVISION: ["a:2", "a:10"],
        By.ROUTE: ["(none)", "GET /x"],
        By.TRIGGER: ["a http", "a route GET /x"],
        By.TENANT: ["default"],
        By.TAG: ["(none)", "stage=prod,team=x"],
        By.HOUR: ["2026-11-01T12:00Z", "2026-09-22T12:00Z"],
        By.DAY: ["2026-11-01", "2026-09-22"],
        By.MONTH: ["2026-11", "2026-09"],
    }
    assert [row.position for row in desk.ask(by=By.TAG, tag="team").rows] == ["(none)", "x"]


@pytest.mark.parametrize("by", [By.DAY, By.FUNCTION])
def test_a_group_is_whole_however_many_calls_it_has(desk: Desk, by: By) -> None:
    """Two days and two functions, each with both books, read one row at a time."""
    desk.settle(*(record(f"f{n % 2}", started_ms=DAY_0_MS + n * 3_000_000) for n in range(50)))
    rows = [row for page in desk.pages(1, by=by) for row in page.rows]
    assert [row.to_dict()["calls"] for row in rows] == ([21, 29] if by is By.DAY else [25, 25])


def test_a_span_begins_with_since_and_ends_before_until(desk: Desk) -> None:
    desk.settle(*(record(started_ms=NOON_MS + n) for n in range(5)))
    span = desk.ask(since_ms=NOON_MS + 1, until_ms=NOON_MS + 3)
    assert [str(row.to_dict()["started"])[-4:-1] for row in span.rows] == ["002", "001"]
    assert span.total.calls == 2


def test_a_tenant_sees_only_its_own(desk: Desk, engine: Engine) -> None:
    theirs = record(tenant="other")
    desk.settle(record(), theirs)
    for by in By:
        assert desk.ask(by=by).total.calls == 1
    assert questions.invocation(engine, "default", theirs.invocation) == []
    assert len(questions.invocation(engine, "other", theirs.invocation)) == 1


def test_one_function_alone(desk: Desk) -> None:
    desk.settle(record("a"), record("b"), record("b"))
    found = desk.ask(function="b")
    assert len(found.rows) == found.total.calls == 2
    assert desk.ask(function="nobody").total.calls == 0


def test_all_attempts_at_an_invocation_in_order(desk: Desk, engine: Engine) -> None:
    one = record(outcome=Outcome.PLATFORM)
    desk.settle(one._replace(attempt=2, outcome="ok"), one)
    assert [(a.attempt, a.outcome) for a in questions.invocation(engine, "default", one.invocation)] == [
        (1, "platform"),
        (2, "ok"),
    ]
    assert questions.invocation(engine, "default", "not an id") == []


def test_a_new_book_prices_what_starts_under_it_and_leaves_the_past(engine: Engine) -> None:
    one_book = TWO_BOOKS.rpartition("[[book]]")[0]
    desk = Desk(engine, bookfile.parse(one_book))
    desk.settle(record(started_ms=CHANGE_MS))  # settled before anyone knew of book 2
    before = desk.ask(by=By.TOTAL).total
    desk = Desk(engine, bookfile.parse(TWO_BOOKS))
    assert desk.ask(by=By.TOTAL).total == before
    desk.settle(record(started_ms=CHANGE_MS))
    assert [row.to_dict()["price_book"] for row in desk.ask().rows] in ([1, 2], [2, 1])
    by_function = desk.ask(by=By.FUNCTION)
    [row] = by_function.rows
    assert isinstance(row, Sum) and row.books == (1, 2) and row.calls == 2
    assert prices.text(row.price) == "0.0000007"  # 0.0125 × 0.00001 + 0.0000002, and 0.0125 × 0.00003
