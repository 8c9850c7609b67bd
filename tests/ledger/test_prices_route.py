"""/v1/prices: published books can be read by everyone and are heard of by whoever sends calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.app import control
from gateway.ledger import Ledger, bookfile
from gateway.routes.prices import BODY_MAX_BYTES, Prices
from jiffy.contract.meter import Tariff
from tests.ledger.conftest import opened, owned
from tests.ledger.records import NOON_MS, meter_into, record
from tests.ledger.test_prices import EVERYTHING

pytestmark = pytest.mark.redis


@pytest.fixture
async def http(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=owned(control(Prices(ledger).endpoints())))
    async with httpx.AsyncClient(transport=transport, base_url="http://jiffy") as client:
        yield client


async def test_a_new_book_holds_for_the_calls_that_follow(
    http: httpx.AsyncClient, ledger: Ledger, redis_url: str
) -> None:
    heard: list[Tariff] = []
    ledger.tell_tariff(heard.append)
    before = (await http.get("/v1/prices")).json()
    assert (before["in_force"], len(before["books"]), heard) == (1, 1, [Tariff(1, 100, 0, False)])
    answer = await http.post("/v1/prices", content=EVERYTHING)
    assert answer.status_code == 200 and answer.json()["in_force"] == 3
    assert heard[-1] == Tariff(3, 1, 5, True)
    one, other = record(tariff=heard[0], started_ms=NOON_MS), record(tariff=heard[-1], started_ms=NOON_MS)
    meter_into(redis_url, one, other)
    assert [(await ledger.invocation(u.invocation))[0].book for u in (one, other)] == [1, 3]
    assert (await http.get("/v1/prices/3")).json()["name"] == "everything"


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (EVERYTHING.replace("version = 3", "version = 1").encode(), 409, "published already"),
        (EVERYTHING.replace("step_ms = 1", "step_ms = 0").encode(), 400, "step_ms = 0; allowed"),
        (EVERYTHING.replace("USD", "EUR").encode(), 409, "kept in USD"),
        (b"\xff", 400, "UTF-8"),
        (b"#" * (BODY_MAX_BYTES + 1), 413, ""),
    ],
)
async def test_what_cannot_be_published_changes_nothing(
    http: httpx.AsyncClient, content: bytes, status: int, message: str
) -> None:
    answer = await http.post("/v1/prices", content=content)
    assert answer.status_code == status and message in answer.json()["error"]["message"]
    assert len((await http.get("/v1/prices")).json()["books"]) == 1


async def test_a_book_that_is_not_there(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/prices/7")
    assert answer.status_code == 404 and "there is 1" in answer.json()["error"]["message"]


async def test_a_book_that_another_gateway_published_prices_what_it_metered(
    ledger: Ledger, tmp_path: Path, redis_url: str
) -> None:
    async with opened(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", redis_url) as other:
        await other.publish(bookfile.parse(EVERYTHING))
        one = record(tariff=Tariff(3, 1, 5, True))
        meter_into(redis_url, one)
        [attempt] = await ledger.invocation(one.invocation)  # it has not heard of book 3 yet
        assert (attempt.book, attempt.price) == (3, other.price_list.by_version[3].price(128 * 5, 1, "", "python3.11"))
