"""Calls with an order key: one at a time, as they were accepted, whatever becomes of each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from invoker.sandbox import Reply
from tests.durable.conftest import FAILED, Pair

pytestmark = pytest.mark.redis


class Ran:
    """What the function did, in order; it fails as often as `fails` says."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.fails: dict[int, int] = {}

    def __call__(self, payload: bytes) -> Reply:
        n = json.loads(payload)["n"]
        self.order.append(n)
        self.fails[n] = self.fails.get(n, 0) - 1
        return FAILED if self.fails[n] >= 0 else Reply(True, payload, 10)


@pytest.fixture
async def ran(pair: Pair) -> Ran:
    await pair.deploy(retries=1)
    pair.host.world.function = ran = Ran()
    return ran


async def call(pair: Pair, n: int, key: str = "account-17", **query: Any) -> str:
    return await pair.call(event={"n": n}, order_key=key, **query)


async def test_each_waits_for_the_one_before_it_retries_included(pair: Pair, ran: Ran) -> None:
    ran.fails = {0: 1, 2: 5}  # the third one dies
    calls = [await call(pair, n) for n in range(4)]
    ends = [(await pair.end(one))["state"] for one in calls]
    assert ends == ["done", "done", "dead", "done"]
    assert ran.order == [0, 0, 1, 2, 2, 3]
    assert await pair.redis.keys("*line:*") == [], "nothing is left of it"


async def test_a_delayed_call_holds_up_its_own_line_only(pair: Pair, ran: Ran) -> None:
    first = await call(pair, 0, delay=60)
    behind = await call(pair, 1)
    other = await call(pair, 2, key="account-18")
    await pair.end(other)
    shown = await pair.show(behind)
    assert (shown["state"], shown["behind"], ran.order) == ("queued", first, [2])
    assert "behind" not in await pair.show(first)
    assert (await pair.http.delete(f"/v1/invocations/{first}")).status_code == 200
    assert (await pair.end(behind))["state"] == "done", "what was behind a cancelled call goes on"
    assert ran.order == [2, 1]


async def test_one_that_waits_behind_can_be_taken_back(pair: Pair, ran: Ran) -> None:
    first = await call(pair, 0, delay=60)
    second, third = await call(pair, 1), await call(pair, 2)
    assert (await pair.http.delete(f"/v1/invocations/{second}")).status_code == 200
    assert (await pair.show(third))["behind"] == first
    await pair.http.delete(f"/v1/invocations/{first}")
    await pair.end(third)
    assert ran.order == [2]


async def test_a_replayed_letter_joins_the_end(pair: Pair, ran: Ran) -> None:
    ran.fails = {0: 2}
    dead = await call(pair, 0)
    assert (await pair.end(dead))["state"] == "dead"
    later = await call(pair, 1, delay=60)
    await pair.http.post(f"/v1/dlq/{dead}/replay")
    assert (await pair.show(dead))["behind"] == later
    await pair.http.delete(f"/v1/invocations/{later}")
    assert (await pair.end(dead, "done"))["state"] == "done"
    assert ran.order == [0, 0, 0]


async def test_many_keys_at_once_keep_each_its_order(pair: Pair, ran: Ran) -> None:
    calls = [await call(pair, n, key=f"account-{n % 5}") for n in range(40)]
    await asyncio.gather(*(pair.end(one) for one in calls))
    for account in range(5):
        assert [n for n in ran.order if n % 5 == account] == list(range(account, 40, 5))


@pytest.mark.parametrize("key", ["", "x" * 256, "two\nlines"])
async def test_keys_that_are_none_are_400(pair: Pair, ran: Ran, key: str) -> None:
    answer = await pair.http.post(
        "/v1/functions/hello/invocations", params={"mode": "async", "order_key": key}, json={}
    )
    assert answer.status_code == 400 and "order_key" in answer.text
