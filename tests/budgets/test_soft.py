"""Soft budgets warn: in a header, in the log, and whoever is to be told, once. Nothing is refused."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from decimal import Decimal

import pytest

from gateway.durable.callbacks import sign
from tests.budgets.conftest import Set, show
from tests.durable.conftest import Pair
from tests.durable.test_destinations import Receiver, receiver
from tests.ledger.records import meter_into, record

__all__ = ["receiver"]
pytestmark = pytest.mark.redis
COUNTED = Decimal("0.000000408334")
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


async def test_a_budget_that_is_close_warns_in_a_header_and_refuses_nothing(pair: Pair, put: Set) -> None:
    await pair.deploy()
    await put("small", limit="0.000001", warn_at=40)
    assert "jiffy-budget-warning" not in (await pair.http.get("/function/hello")).headers
    await pair.served.gateway.budgets.guard.look()
    warned = await pair.http.get("/function/hello")
    assert (warned.status_code, warned.headers["jiffy-budget-warning"]) == (200, "small")
    assert (await show(pair, "small"))["state"] == "close"
    for _ in range(3):
        assert (await pair.http.get("/function/hello")).status_code == 200
    raw = await pair.http.post("/v1/functions/hello/invocations", json={})
    assert raw.headers["jiffy-budget-warning"] == "small"
    found = await show(pair, "small")
    assert (Decimal(found["spent"]), found["held"], found["state"]) == (6 * COUNTED, "0", "used up")


async def test_who_is_to_be_told_is_told_once_signed(
    pair: Pair, put: Set, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    pair.served.gateway.durable.callbacks.allowed = LOOPBACK
    await pair.deploy()
    url = f"http://127.0.0.1:{receiver.port}/alarm"
    with caplog.at_level(logging.WARNING, "jiffy.budgets"):
        await put("small", limit="0.000001", warn_at=40, notify=url)
        await pair.http.get("/function/hello")
        line, headers, body = await receiver.told()
        for _ in range(4):
            await pair.http.get("/function/hello")
        _, _, second = await receiver.told()
    assert line == "POST /alarm HTTP/1.1"
    told = json.loads(body)
    assert (told["type"], Decimal(told["spent"]), told["currency"]) == ("budget.close", COUNTED, "USD")
    assert (told["budget"]["name"], told["budget"]["limit"]) == ("small", "0.000001")
    secret = (await pair.http.get("/v1/callback-secret")).json()["secret"]
    stamp = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"] == sign(secret, headers["webhook-id"], stamp, body)
    assert json.loads(second)["type"] == "budget.used_up"
    assert receiver.requests.empty()
    logged = [json.loads(record.message)["type"] for record in caplog.records if record.name == "jiffy.budgets"]
    assert logged == ["budget.close", "budget.used_up"]
    async with asyncio.timeout(10):
        while (await pair.tally()).get("delivered") != 2:
            await asyncio.sleep(0.01)  # a counter tells nobody


async def test_an_unusual_cost_is_told_once_to_whom_budgets_of_that_function_name(
    pair: Pair, put: Set, receiver: Receiver, redis_url: str
) -> None:
    gateway = pair.served.gateway
    gateway.durable.callbacks.allowed = LOOPBACK
    await pair.deploy("hello", tags={"team": "x"})
    url = f"http://127.0.0.1:{receiver.port}/alarm"
    await put("team", limit="1000", tag="team=x", notify=url)
    await put("others", limit="1000", tag="team=y", notify=url)
    await put("silent", limit="1000")
    now_ms = gateway.store.now_ms()
    quiet = [record(started_ms=now_ms - day * 86_400_000) for day in range(1, 15)]
    meter_into(redis_url, *quiet, record(started_ms=now_ms - 1, memory_mb=10_240, duration_us=900_000_000))
    await gateway.ledger.settle_now()
    for _ in range(2):
        await gateway.budgets.unusual.look()
    line, headers, body = await receiver.told()
    assert line == "POST /alarm HTTP/1.1" and "webhook-signature" in headers
    told = json.loads(body)
    assert (told["type"], told["function"], told["budget"]["name"]) == ("cost.unusual", "hello", "team")
    assert Decimal(told["cost"]) > Decimal(told["usual_high"]) and told["currency"] == "USD"
    async with asyncio.timeout(10):
        while (await pair.tally()).get("delivered") != 1:
            await asyncio.sleep(0.01)  # a counter tells nobody
    assert (await pair.tally())["destined"] == 1 and receiver.requests.empty()


async def test_what_was_spent_before_a_budget_was_set_counts(pair: Pair, put: Set) -> None:
    await pair.deploy("hello", tags={"team": "x"})
    for _ in range(3):
        await pair.http.get("/function/hello")
    for name, scope in (("all", {}), ("one", {"function": "hello"}), ("team", {"tag": "team=x"})):
        found = await put(name, limit="0.000001", hard=True, **scope)
        assert Decimal(found["spent"]) == Decimal("0.000001225002"), name
    assert Decimal((await put("none", limit="1", tag="team=y"))["spent"]) == 0
    assert (await pair.http.get("/function/hello")).status_code == 402
    found = await put("all-too", limit="2", per="day")  # shares its counters with "all"
    assert Decimal(found["spent"]) == Decimal("0.000001225002")


BAD = (
    ({"limit": 5, "per": "day"}, "as a string"),
    ({"limit": "0", "per": "day"}, "above 0"),
    ({"limit": "-1", "per": "day"}, "above 0"),
    ({"limit": "NaN", "per": "day"}, "above 0"),
    ({"limit": "1e99", "per": "day"}, "at most 9000000"),
    ({"per": "day"}, "limit must be"),
    ({"limit": "1"}, 'per must be "day" or "month"'),
    ({"limit": "1", "per": "week"}, '"day" or "month"'),
    ({"limit": "1", "per": "day", "function": "A b"}, "can't name a function"),
    ({"limit": "1", "per": "day", "tag": "team"}, "a name and a value"),
    ({"limit": "1", "per": "day", "tag": "Team=x"}, "lower-case"),
    ({"limit": "1", "per": "day", "tag": "a=b", "function": "c"}, "for a function or for a tag"),
    ({"limit": "1", "per": "day", "hard": "yes"}, "hard must be true or false"),
    ({"limit": "1", "per": "day", "warn_at": 101}, "warn_at must be"),
    ({"limit": "1", "per": "day", "notify": "ftp://x"}, "notify must be"),
    ({"limit": "1", "per": "day", "colour": "red"}, "unknown key 'colour'"),
    ([1], "a budget is an object"),
)


async def test_what_is_no_budget_is_refused_with_what_is_allowed(pair: Pair) -> None:
    for document, text in BAD:
        answer = await pair.http.put("/v1/budgets/small", json=document)
        assert (answer.status_code, text in answer.json()["error"]["message"]) == (400, True), answer.text
    assert (await pair.http.put("/v1/budgets/Small!", json={"limit": "1", "per": "day"})).status_code == 400
    assert (await pair.http.put("/v1/budgets/small", content=b"{")).status_code == 400
    assert (await pair.http.get("/v1/budgets")).json() == {"budgets": []}
    assert (await pair.http.delete("/v1/budgets/small")).status_code == 404
