"""The books balance after calls of every kind, and say so when somebody meddles with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from invoker.sandbox import Reply
from jiffy.contract import keys
from tests.durable.conftest import FAILED, Pair

pytestmark = pytest.mark.redis


async def audit(pair: Pair) -> dict[str, Any]:
    found: dict[str, Any] = (await pair.http.get("/v1/audit")).json()
    return found


def wrong(found: dict[str, Any]) -> list[str]:
    assert found["balanced"] is not any(not check["balanced"] for check in found["checks"])
    return [check["check"] for check in found["checks"] if not check["balanced"]]


async def test_an_empty_platform_balances(pair: Pair) -> None:
    assert wrong(await audit(pair)) == []


@pytest.fixture
async def used(pair: Pair) -> Pair:
    """Calls of every kind: done, dead, told of, replayed, purged, cancelled, waiting, refused, synchronous, keyed."""
    await pair.deploy("hello", on_success="function:audit", on_failure="function:nobody")
    await pair.deploy("audit")
    path = "/v1/functions/hello/invocations"
    pair.host.world.function = lambda payload: FAILED if b"fail" in payload else Reply(True, payload, 10)
    dead = [await pair.call(event={"fail": n}, retries=n % 2) for n in range(4)]
    calls = await asyncio.gather(*(pair.call(event={"n": n}) for n in range(10)))
    for invocation in (*dead, *calls):
        await pair.end(invocation)
    for invocation in dead[:2]:
        await pair.http.post(f"/v1/dlq/{invocation}/replay")
        await pair.end(invocation, "dead")
    await pair.http.delete(f"/v1/dlq/{dead[3]}")
    await pair.http.delete(f"/v1/invocations/{await pair.call(delay=60)}")
    for n in range(2):
        await pair.call(event={"wait": n}, delay=60)
        await pair.http.post(path, json={"n": 1}, headers={"Idempotency-Key": "k"})
        await pair.http.post(path, json={"fail": n})
    async with asyncio.timeout(15):
        while (await pair.tally()).get("done", 0) < 20:  # ten of `hello`, ten of `audit`
            await asyncio.sleep(0.01)
    return pair


async def test_calls_of_every_kind_balance(used: Pair) -> None:
    found = await audit(used)
    assert wrong(found) == [], found
    assert all(check["found"] is not None for check in found["checks"]), "nothing moves"
    counters = found["counters"]["default"]
    assert (counters["done"], counters["cancelled"], counters["replayed"], counters["purged"]) == (20, 1, 2, 1)
    assert used.served.gateway.ledger is not None
    [written] = [check for check in found["checks"] if check["check"].startswith("usage records written")]
    assert written["expected"] == 10 + 10 + (1 + 2 + 1 + 2) + (3 + 3) + 1 + 2


async def test_meddling_is_found(used: Pair) -> None:
    redis = used.redis
    await redis.hincrby(keys.tally("default"), "done", 1)
    assert wrong(await audit(used)) == ["calls accepted and replayed = done + dead + cancelled + queued or running"]
    await redis.hincrby(keys.tally("default"), "done", -1)
    await redis.incr(keys.METERED)
    assert wrong(await audit(used)) == ["usage records written = settled + put aside + still to be settled"]
    await redis.decr(keys.METERED)
    [lost, *_] = await redis.hkeys(keys.LATER_CALLS)
    await redis.hdel(keys.LATER_CALLS, lost)
    assert wrong(await audit(used)) == [
        "calls that wait for their time",
        "calls of the backlog that are nowhere",
        "bytes of payload that wait",
    ]


async def test_a_call_in_two_places_is_found(used: Pair) -> None:
    [packed, *_] = await used.redis.hvals(keys.LATER_CALLS)
    await used.redis.xadd(keys.calls("inv-9"), {"c": packed})
    assert wrong(await audit(used)) == ["calls that are not where the backlog says", "bytes of payload that wait"]


async def test_while_calls_move_places_are_not_judged(used: Pair) -> None:
    moving = asyncio.create_task(_move(used))
    found = await audit(used)
    moving.cancel()
    assert wrong(found) == []


async def _move(pair: Pair) -> None:
    while True:
        await pair.call(event={"n": 1})
