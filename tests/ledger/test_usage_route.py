"""GET /v1/usage, through the gateway's own control app with a real ledger behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.app import control
from gateway.ledger import Ledger
from gateway.routes import export
from gateway.routes.usage import UsageRoute
from jiffy.contract.messages import Outcome
from tests.ledger.conftest import owned
from tests.ledger.records import NOON_MS, meter_into, record

pytestmark = pytest.mark.redis
HOUR_MS = 3_600_000


@pytest.fixture
async def http(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=owned(control(UsageRoute(ledger).endpoints())))
    async with httpx.AsyncClient(transport=transport, base_url="http://jiffy") as client:
        yield client


async def _bill(http: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await http.get("/v1/usage", params=params)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_an_empty_ledger_has_an_empty_bill(http: httpx.AsyncClient) -> None:
    document = await _bill(http)
    assert document["rows"] == [] and document["next"] is None and document["unsettled"] == 0
    assert document["currency"] == "USD" and document["price_book"] == 1
    assert document["total"] == {
        "calls": 0,
        "charged_calls": 0,
        "failed_calls": 0,
        "cold_calls": 0,
        "duration_ms": "0.000",
        "billed_ms": 0,
        "rounding_ms": "0.000",
        "init_ms": "0.000",
        "max_memory_bytes": 0,
        "gb_seconds": "0",
        "price": "0",
        "price_books": [],
        "provisioned_gb_seconds": "0",
        "idle_gb_seconds": "0",
        "provisioned_price": "0",
    }


async def test_the_bill_of_three_calls(http: httpx.AsyncClient, redis_url: str) -> None:
    meter_into(
        redis_url,
        record(duration_us=1841, cold=True),
        record(duration_us=3_000_412, outcome=Outcome.TIMEOUT),
        record(duration_us=0, outcome=Outcome.THROTTLED),
    )
    document = await _bill(http)
    assert {row["price"] for row in document["rows"]} == {"0.00000040833375", "0.00000665834625", "0"}
    total = document["total"]
    assert (total["calls"], total["charged_calls"], total["cold_calls"]) == (3, 2, 1)
    assert (total["billed_ms"], total["rounding_ms"], total["price"]) == (3200, "197.747", "0.00000706668")


async def test_the_total_covers_all_pages_and_the_pages_all_rows(http: httpx.AsyncClient, redis_url: str) -> None:
    meter_into(redis_url, *(record(started_ms=NOON_MS - n, duration_us=n * 77_777) for n in range(23)))
    rows, after = [], None
    while True:
        page = await _bill(http, limit=5, **({"after": after} if after else {}))
        rows += page["rows"]
        assert page["total"]["calls"] == 23
        after = page["next"]
        if after is None:
            break
    assert len({row["invocation"] for row in rows}) == 23
    assert sum(Decimal(row["price"]) for row in rows) == Decimal(page["total"]["price"])


@pytest.mark.parametrize(("by", "names"), [("function", ["a", "b"]), ("day", ["2026-11-01", "2026-10-31"])])
async def test_sums_by_function_and_by_day(http: httpx.AsyncClient, redis_url: str, by: str, names: list[str]) -> None:
    meter_into(redis_url, record("a"), record("b"), record("b", started_ms=NOON_MS - 24 * HOUR_MS))
    document = await _bill(http, by=by)
    assert [row[by] for row in document["rows"]] == names
    first = await _bill(http, by=by, limit=1)
    second = await _bill(http, by=by, limit=1, after=first["next"])
    assert [*first["rows"], *second["rows"]] == document["rows"] and second["next"] is None


async def test_by_total_is_one_row(http: httpx.AsyncClient, redis_url: str) -> None:
    meter_into(redis_url, record(), record())
    document = await _bill(http, by="total")
    assert document["rows"] == [document["total"]]


@pytest.mark.parametrize(
    ("since", "calls"),
    [
        ("2026-11-01", 2),
        ("2026-11-01T11:00:00Z", 1),
        ("2026-11-01T12:00:00+01:00", 1),
        ("2026-11-01T11:00:01", 1),
        ("2026-11-01 10:59", 2),
        ("2026-11-01T11:00:00.001Z", 1),
        ("30m", 1),
        ("61m", 2),
        ("24h", 2),
        ("7d", 3),
        ("2w", 3),
        ("999999w", 3),
        ("0001-01-01T00:00:00+23:59", 3),
        ("9999-12-31T23:59:59-23:59", 0),
        ("", 3),
    ],
)
async def test_since_in_all_its_forms(http: httpx.AsyncClient, redis_url: str, since: str, calls: int) -> None:
    """Now is noon of 2026-11-01, UTC."""
    meter_into(redis_url, *(record(started_ms=NOON_MS - ago) for ago in (0, HOUR_MS + 1, 36 * HOUR_MS)))
    assert (await _bill(http, since=since))["total"]["calls"] == calls


@pytest.mark.parametrize("by", ["call", "function", "hour", "day", "month", "total"])
async def test_the_ends_of_time_are_times(http: httpx.AsyncClient, redis_url: str, by: str) -> None:
    meter_into(redis_url, record(started_ms=NOON_MS))
    document = await _bill(http, by=by, since="0001-01-01", until="9999-12-31T23:59:59-23:59")
    assert document["total"]["calls"] == 1


async def test_a_plus_that_was_not_escaped_is_understood(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/usage?since=2026-11-01T12:00:00+01:00")
    assert answer.json()["since"] == "2026-11-01T11:00:00.000Z"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"by": "week"}, "by = 'week'; allowed: call, function, revision"),
        ({"by": "tag:"}, "by = 'tag:'; allowed: call"),
        ({"by": "day:x"}, "by = 'day:x'; allowed: call"),
        ({"by": "day", "order": "price"}, "order = 'price'; allowed: time"),
        ({"by": "revision", "after": "hello"}, "after = 'hello'; allowed"),
        ({"format": "xml"}, "format = 'xml'; allowed: json, csv, jsonl"),
        ({"limit": "0"}, "limit = '0'; allowed: a whole number from 1 to 10000"),
        ({"limit": "10001"}, "limit = '10001'; allowed"),
        ({"limit": "²"}, "limit = '²'; allowed"),
        ({"limit": "9" * 5000}, "limit = '999"),
        ({"since": "yesterday"}, "since = 'yesterday'; allowed: a day or time such as"),
        ({"until": "2026-13-01"}, "until = '2026-13-01'; allowed"),
        ({"since": "24h", "until": "2d"}, "until = '2d'; allowed: a time after since"),
        ({"function": "No Such"}, "function = 'No Such'; allowed: the name of a function"),
        ({"after": "x"}, "after = 'x'; allowed: the `next` of the page before"),
        ({"after": "1.2.3"}, "after = '1.2.3'; allowed"),
        ({"by": "day", "after": "a"}, "after = 'a'; allowed"),
        ({"by": "function", "after": "A"}, "after = 'A'; allowed"),
        ({"by": "total", "after": "a"}, "after = 'a'; allowed: nothing"),
        ({"functoin": "a"}, "unknown parameter 'functoin' (did you mean 'function'?); allowed: by, function"),
    ],
)
async def test_a_wrong_parameter_is_named(http: httpx.AsyncClient, params: dict[str, str], message: str) -> None:
    answer = await http.get("/v1/usage", params=params)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_request" and message in error["message"] and len(error["message"]) < 400


async def test_csv_has_every_row_and_the_keys_of_json(http: httpx.AsyncClient, redis_url: str) -> None:
    count = export.PAGE_ROWS + 3
    meter_into(redis_url, *(record(started_ms=NOON_MS - n) for n in range(count)))
    answer = await http.get("/v1/usage", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    document = await _bill(http, limit=1)
    assert list(rows[0]) == list(document["rows"][0])
    assert len({row["invocation"] for row in rows}) == count
    assert sum(Decimal(row["price"]) for row in rows) == Decimal(document["total"]["price"])
    assert rows[0]["cold"] == "false"


@pytest.mark.parametrize(("limit", "lines"), [(1, 2), (2, 3), (1500, 1501), (2000, 1601)])
async def test_csv_keeps_to_a_limit(http: httpx.AsyncClient, redis_url: str, limit: int, lines: int) -> None:
    meter_into(redis_url, *(record(started_ms=NOON_MS - n) for n in range(1600)))
    answer = await http.get("/v1/usage", params={"format": "csv", "limit": limit})
    assert len(answer.text.splitlines()) == lines


@pytest.mark.parametrize("by", ["call", "function", "day", "total"])
async def test_csv_has_the_same_header_with_and_without_rows(http: httpx.AsyncClient, redis_url: str, by: str) -> None:
    empty = await http.get("/v1/usage", params={"format": "csv", "by": by, "function": "nobody"})
    meter_into(redis_url, record())
    full = await http.get("/v1/usage", params={"format": "csv", "by": by})
    document = await _bill(http, by=by)
    assert empty.text.splitlines()[0] == full.text.splitlines()[0] == ",".join(document["rows"][0])


async def test_only_get(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/usage")).status_code == 405


async def test_a_day_is_one_row_however_many_calls_it_has(http: httpx.AsyncClient, redis_url: str) -> None:
    meter_into(redis_url, *(record(started_ms=NOON_MS - n) for n in range(23)))
    document = await _bill(http, by="day", limit=1)
    assert [row["calls"] for row in document["rows"]] == [23] and document["next"] is None
    assert document["rows"][0]["price"] == document["total"]["price"]
