"""What is kept ready is priced, once, and shown beside the calls: used and idle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from gateway.ledger import Ledger, bookfile, database, prices, retention, statements
from gateway.ledger.count import count
from gateway.ledger.lines import Sum
from gateway.ledger.months import parse
from gateway.ledger.page import page
from gateway.ledger.questions import By
from jiffy.contract import wire
from tests.ledger.records import NOON_MS, meter_into, minute, record
from tests.ledger.test_questions import ALL, Desk

BOOK = """
currency = "USD"
[[book]]
version = 1
effective_from = 1970-01-01
per_gb_second = "0.0001"
per_call = "0"
per_provisioned_gb_second = "0.00001"
[book.runtimes.node]
per_provisioned_gb_second = "0.00002"
[book.tenants.acme]
per_provisioned_gb_second = "0"
"""
MINUTE_MS = 60_000


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    one = database.connect(database_url)
    yield one
    one.dispose()


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine, bookfile.parse(BOOK))


def test_it_has_a_price_of_its_own_and_its_calls_are_priced_as_any(desk: Desk) -> None:
    desk.settle(
        minute("kept", memory_mb=1024, provisioned_ms=120_000, idle_ms=90_000),
        minute("node", memory_mb=512, provisioned_ms=60_000, idle_ms=60_000, runtime="node22"),
        record("kept", memory_mb=1024, duration_us=1_000_000),
    )
    kept, node = (row for row in desk.ask(by=By.FUNCTION).rows if isinstance(row, Sum))
    assert kept.to_dict() | {"price_books": 0} == kept.of_calls.to_dict() | {
        "price": "0.0013",  # 1 GB-second of a call, 120 that it was kept ready
        "price_books": 0,
        "provisioned_gb_seconds": "120",
        "idle_gb_seconds": "90",
        "provisioned_price": "0.0012",
    }
    assert kept.calls == 1 and prices.text(kept.of_calls.price) == "0.0001"
    assert node.calls == 0 and prices.text(node.price) == "0.0006"


def test_a_tenant_may_have_it_free(desk: Desk) -> None:
    desk.settle(minute(tenant="acme"), minute(tenant="default", memory_mb=1024))
    rows = {row.position: row.to_dict()["price"] for row in desk.ask(by=By.TENANT, tenant=None).rows}
    assert rows == {"acme": "0", "default": "0.0006"}


def test_a_record_that_comes_again_counts_once(desk: Desk, engine: Engine) -> None:
    one = minute(memory_mb=1024)
    desk.settle(one, one, record())
    desk.settle(one)
    assert desk.ask(by=By.TOTAL).total.provisioned_mb_ms == 1024 * MINUTE_MS
    assert count(engine).settled == count(engine).rows == 2, "as the audit counts them"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../etc"},
        {"provisioned_ms": -1},
        {"idle_ms": 60_001},
        {"memory_mb": 2**40},
        {"tags": "\0"},
        {"revision": "1"},
    ],
)
def test_what_can_be_no_record_is_put_aside(desk: Desk, engine: Engine, changes: dict[str, object]) -> None:
    desk._feed.put_raw(None, wire.pack(minute()._replace(**changes)))  # type: ignore[arg-type]
    desk.settle(minute())
    assert count(engine).rejected == 1
    assert desk.ask(by=By.TOTAL).total.provisioned_mb_ms == 128 * MINUTE_MS


def test_it_is_no_call(desk: Desk) -> None:
    desk.settle(minute(), record())
    calls = desk.ask()
    assert len(calls.rows) == calls.total.calls == 1
    assert calls.provisioned_price == desk.ask(by=By.TOTAL).total.provisioned_price > 0
    assert [row.position for row in desk.ask(by=By.TRIGGER).rows] == ["hello http", "hello min_instances"]


def test_a_statement_has_it_and_freezes_it(desk: Desk, engine: Engine) -> None:
    november, now_ms = parse("2026-11"), NOON_MS + 40 * 86_400_000
    desk.settle(record(memory_mb=1024, duration_us=1_000_000), minute(memory_mb=1024, idle_ms=45_000))
    closed = statements.close(engine, "default", november, now_ms)
    assert (closed["total"], closed["list_price"]) == ("0.0007", "0.0007")
    [line] = closed["lines"]
    assert (line["calls_price"], line["provisioned_price"]) == ("0.0001", "0.0006")
    assert (line["provisioned_gb_seconds"], line["idle_gb_seconds"]) == ("60", "45")
    desk.settle(minute(memory_mb=1024))  # after it was closed
    assert statements.statement(engine, "default", november, now_ms) == closed
    assert statements.statement(engine, "default", november + 1, now_ms)["late"]["provisioned_price"] == "0.0006"
    assert "idle in 75.0% of it; that cost 0.0006" in page(closed)


def test_old_minutes_go_and_sums_stay(desk: Desk, engine: Engine) -> None:
    desk.settle(minute(), record(), minute(started_ms=NOON_MS + 40 * 86_400_000))
    before = desk.ask(by=By.DAY)
    assert retention.forget(engine, NOON_MS + 86_400_000) == 2 and retention.forget(engine, NOON_MS + 86_400_000) == 0
    assert desk.ask(by=By.DAY) == before
    desk.settle(minute())
    assert count(engine).rejected == 1 and desk.ask(by=By.DAY) == before, "it may have been counted already"
    assert count(engine).settled == count(engine).rows == 3, "what was removed is remembered"


@pytest.mark.redis
async def test_it_comes_through_the_stream_of_usage(ledger: Ledger, redis_url: str) -> None:
    meter_into(redis_url, minute(idle_ms=30_000), record())
    await ledger.settle_now()
    total = (await ledger.ask(replace(ALL, by=By.TOTAL))).total
    assert (total.calls, total.provisioned_mb_ms, total.idle_mb_ms) == (1, 128 * 60_000, 128 * 30_000)
