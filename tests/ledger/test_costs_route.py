"""/v1/statements and /v1/costs over HTTP, with a real ledger behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import httpx
import pytest

from gateway.app import control
from gateway.ledger import Ledger, bookfile
from gateway.routes.costs import Costs
from gateway.routes.statements import Statements
from gateway.routes.usage import UsageRoute
from jiffy.contract.errors import NotFound
from jiffy.contract.messages import Outcome
from tests.ledger.conftest import owned
from tests.ledger.records import NOON_MS, meter_into, record

pytestmark = pytest.mark.redis
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class Functions:
    """Of the catalog: one function, now at 256 MB, two instances of which are kept ready."""

    async def find(self, tenant: str, name: str) -> object:
        if name != "hello":
            raise NotFound(f"there is no function {name!r}")
        live = type("Live", (), {"number": 4, "memory_mb": 256, "runtime": "python3.11", "min_instances": 2})
        return type("Function", (), {"revision": live})


@pytest.fixture
async def http(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    endpoints = [*Statements(ledger).endpoints(), *Costs(ledger, Functions()).endpoints()]  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app=owned(control([*endpoints, *UsageRoute(ledger).endpoints()])))
    async with httpx.AsyncClient(transport=transport, base_url="http://jiffy") as client:
        yield client


async def test_a_month_from_open_to_closed(http: httpx.AsyncClient, redis_url: str) -> None:
    meter_into(redis_url, record(started_ms=NOON_MS - 2 * DAY_MS), record())
    october = (await http.get("/v1/statements/2026-10")).json()
    assert october["number"] is None and october["sum"]["calls"] == 1
    assert (await http.post("/v1/statements/2026-11/close")).status_code == 409
    closed = await http.post("/v1/statements/2026-10/close")
    assert closed.status_code == 200 and closed.json()["number"] == 1
    late = record(started_ms=NOON_MS - 2 * DAY_MS)
    meter_into(redis_url, late)
    assert (await http.get("/v1/statements/2026-10")).json() == closed.json()
    bill = (await http.get("/v1/usage", params={"month": "2026-11"})).json()
    assert {row["invocation"]: row["late"] for row in bill["rows"]}[late.invocation] == "2026-11"
    assert bill["total"]["calls"] == 2
    assert [one["month"] for one in (await http.get("/v1/statements")).json()["statements"]] == ["2026-10"]


async def test_a_statement_as_a_page(http: httpx.AsyncClient, redis_url: str) -> None:
    meter_into(redis_url, record())
    answer = await http.get("/v1/statements/2026-11", params={"format": "html"})
    assert answer.headers["content-type"].startswith("text/html") and "<svg" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_the_same_calls_under_awss_list_prices(http: httpx.AsyncClient, redis_url: str) -> None:
    meter_into(
        redis_url,
        record("a", duration_us=2_041, memory_mb=128),
        record("a", duration_us=2_000, memory_mb=128, cold=True),  # and 31 ms of INIT
        record("b", duration_us=0, memory_mb=1024),
        record("b", outcome=Outcome.THROTTLED),
    )
    found = (await http.get("/v1/costs/comparison", params={"book": "aws-lambda", "since": "1h"})).json()
    rate, call = Decimal("0.0000166667"), Decimal("0.0000002")
    a = (Decimal(3 + 33) / 1000 * 128 / 1024) * rate + 2 * call
    b = Decimal("0.001") * rate + call
    assert {row["function"]: Decimal(row["aws-lambda"]) for row in found["rows"]} == {"a": a, "b": b}
    assert Decimal(found["list_price"]["aws-lambda"]) == a + b
    assert found["total"]["aws-lambda"] == "0"  # all of it is free there
    assert found["total"]["price"] == found["list_price"]["price"] != "0"


async def test_an_estimate_is_what_a_month_of_such_calls_is_billed(http: httpx.AsyncClient) -> None:
    params = {"calls": "2e6", "duration_ms": "120", "memory_mb": "128", "compare": "aws-lambda"}
    document = (await http.get("/v1/costs/estimate", params=params)).json()
    here, there = document["estimate"], document["aws-lambda"]
    assert (here["billed_ms"], here["gb_seconds"], here["total"]) == (200, "50000", "1.233335")
    assert (there["billed_ms"], there["gb_seconds"], there["total"]) == (120, "30000", "0.2")
    cold = (await http.get("/v1/costs/estimate", params=params | {"cold_share": "0.5", "init_ms": "80"})).json()
    assert cold["estimate"] == here and cold["aws-lambda"]["gb_seconds"] == "40000"


async def test_an_estimate_of_a_function_comes_from_its_last_calls(http: httpx.AsyncClient, redis_url: str) -> None:
    assert (await http.get("/v1/costs/estimate/hello")).json()["estimate"] is None
    meter_into(redis_url, record("hello", revision=2, memory_mb=1024))
    meter_into(redis_url, record("hello", revision=3, duration_us=50_000))
    meter_into(redis_url, record("hello", revision=3, duration_us=150_000, outcome=Outcome.ERROR))  # is billed, too
    meter_into(redis_url, record("hello", revision=3, duration_us=0, outcome=Outcome.PLATFORM))
    found = (await http.get("/v1/costs/estimate/hello")).json()["estimate"]
    assert (found["revision_seen"], found["calls_seen"], found["mean_duration_ms"]) == (3, 2, "100.000")
    assert (found["mean_billed_ms"], found["memory_mb"], found["per_million"]) == ("150.000", 256, "0.82500125")
    assert (await http.get("/v1/costs/estimate/nobody")).status_code == 404


async def test_what_is_kept_ready_costs_so_much_a_day(http: httpx.AsyncClient, ledger: Ledger) -> None:
    async def kept() -> object:
        return (await http.get("/v1/costs/estimate/hello")).json()["kept_ready"]

    assert await kept() == {"min_instances": 2, "per_host_and_day": "0", "currency": "USD"}
    book = 'currency = "USD"\n[[book]]\nversion = 2\neffective_from = 2026-10-01\nper_gb_second = "1"\nper_call = "0"\n'
    await ledger.publish(bookfile.parse(f'{book}per_provisioned_gb_second = "0.00001"\n'))
    assert await kept() == {"min_instances": 2, "per_host_and_day": "0.432", "currency": "USD"}  # of 43,200 GB-s


async def test_an_estimate_is_for_the_runtime_that_jiffy_toml_means(http: httpx.AsyncClient, ledger: Ledger) -> None:
    book = 'currency = "USD"\n[[book]]\nversion = 2\neffective_from = 2026-10-01\nper_gb_second = "1"\nper_call = "0"\n'
    await ledger.publish(bookfile.parse(f'{book}[book.runtimes.python]\nper_gb_second = "2"\n'))
    load = {"calls": "1", "duration_ms": "1000", "memory_mb": "1024"}
    unsaid = (await http.get("/v1/costs/estimate", params=load)).json()["estimate"]
    assert unsaid["total"] == "2" and unsaid["runtime"].startswith("python3.")
    other = (await http.get("/v1/costs/estimate", params=load | {"runtime": "provided"})).json()["estimate"]
    assert (other["total"], other["runtime"]) == ("1", "provided")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("statements/november", "month = 'november'; allowed: a month such as 2026-11"),
        ("statements/2026-11?format=pdf", "format = 'pdf'; allowed: json, html"),
        ("usage?month=2026-11&since=1h", "month stands in place of since and until"),
        ("usage?month=2026-13", "month = '2026-13'; allowed: a month"),
        ("costs/comparison", "there is no price book '' to compare with; there is aws-lambda"),
        ("costs/comparison?book=aws-lambda&by=day", "unknown parameter 'by'; allowed: function"),
        ("costs/estimate?calls=1&duration_ms=1", "memory_mb = ''; allowed: a number from 64 to 10240"),
        ("costs/estimate?calls=-1&duration_ms=1&memory_mb=64", "calls = '-1'; allowed"),
        ("costs/estimate?calls=nan&duration_ms=1&memory_mb=64", "calls = 'nan'; allowed"),
        ("costs/estimate?calls=1&duration_ms=1&memory_mb=64&cold=1", "unknown parameter 'cold'"),
        ("costs/advice?since=x", "since = 'x'; allowed"),
    ],
)
async def test_a_wrong_question_is_told(http: httpx.AsyncClient, path: str, message: str) -> None:
    answer = await http.get(f"/v1/{path}")
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]
