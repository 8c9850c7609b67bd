"""Hard budgets: calls are refused before they run, by every gateway, and never more is spent than what runs costs."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.budgets.plan import Asked
from gateway.budgets.store import BudgetStore
from invoker.sandbox import Reply
from jiffy.contract import keys, spending
from jiffy.contract.spending import Hold
from tests.budgets.conftest import Set, show
from tests.durable.conftest import FAILED, Pair
from tests.gateway.conftest import serving

pytestmark = pytest.mark.redis
CALL = Decimal("0.00000040833375")  # 100 ms of 128 MB, and the call
COUNTED = Decimal("0.000000408334")  # the same, rounded up as counters are
WORST = Decimal("0.0000064500125")  # 3 s of it


async def test_calls_are_refused_once_a_budget_is_used_up_and_the_message_says_which_and_until_when(
    pair: Pair, put: Set
) -> None:
    await pair.deploy()
    budget = await put("small", limit="0.000001", hard=True)
    assert (budget["spent"], budget["state"], budget["percent"]) == ("0", "ok", 0.0)
    statuses = [(await pair.http.get("/function/hello")).status_code for _ in range(3)]
    assert statuses == [200] * 3  # the third one passes it
    refused = await pair.http.get("/function/hello")
    assert refused.status_code == 402
    assert refused.json()["error"]["code"] == "budget_exceeded"
    message = refused.json()["error"]["message"]
    assert (
        message == f'the budget "small" (all functions, per day) is used up: calls are refused until {budget["resets"]}'
    )
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert refused.headers["jiffy-invocation-id"]
    later = await show(pair, "small")
    assert (Decimal(later["spent"]), later["held"], later["state"]) == (3 * COUNTED, "0", "used up")
    usage = (await pair.http.get("/v1/usage", params={"by": "total"})).json()
    assert (usage["total"]["calls"], Decimal(usage["total"]["price"])) == (3, 3 * CALL)


async def test_every_way_in_is_refused(pair: Pair, put: Set) -> None:
    await pair.deploy()
    await put("small", limit="0.0000001", hard=True)
    assert (await pair.http.get("/function/hello")).status_code == 200
    path = "/v1/functions/hello/invocations"
    async with asyncio.timeout(10):
        while (await pair.http.get("/function/hello")).status_code != 402:
            pass
    assert (await pair.http.post(path, json={})).status_code == 402
    assert (await pair.http.post(path, json={}, params={"mode": "async"})).status_code == 402
    assert (await pair.http.get("/function/hello", headers={"idempotency-key": "k"})).status_code == 402
    assert (await pair.http.post("/function/hello", content=b"x" * 300_000)).status_code == 402
    assert len(await pair.redis.keys("jiffy:once:*")) == 0


async def test_two_gateways_together_never_pass_a_budget_by_more_than_one_call(
    pair: Pair, put: Set, redis_url: str, data_dir: Path
) -> None:
    pair.host.world.function = lambda payload: Reply(True, b"1", 900_000)  # nearly a third of the worst
    await pair.deploy()
    limit = Decimal("0.00003")  # of about 14 such calls; room is held for at most 5 at a time
    async with serving(redis_url, data_dir, name="gw-2") as other:
        await other.gateway.pulse.look()
        await put("small", limit=str(limit), hard=True)
        statuses: list[int] = []

        async def caller(http: Any) -> None:
            while True:
                status = (await http.get("/function/hello")).status_code
                statuses.append(status)
                if status == 402:
                    return

        async with asyncio.timeout(30):
            await asyncio.gather(*(caller(http) for http in (pair.http, other.http) for _ in range(8)))
    assert set(statuses) <= {200, 402, 429} and statuses.count(402) == 16
    found = await show(pair, "small")
    assert limit <= Decimal(found["spent"]) < limit + WORST
    assert found["held"] == "0"
    total = (await pair.http.get("/v1/usage", params={"by": "total"})).json()["total"]
    assert total["calls"] == statuses.count(200)
    assert 0 <= Decimal(found["spent"]) - Decimal(total["price"]) < Decimal("1e-9")


async def test_while_others_hold_what_is_left_a_call_is_told_to_come_again(pair: Pair, put: Set) -> None:
    running: list[asyncio.Future[Any]] = []

    def function(payload: bytes) -> asyncio.Future[Any]:
        running.append(asyncio.get_running_loop().create_future())
        return running[-1]

    pair.host.world.function = function
    await pair.deploy()
    await put("small", limit="0.000001", hard=True)
    first = asyncio.create_task(pair.http.get("/function/hello"))
    async with asyncio.timeout(10):
        while not running:
            await asyncio.sleep(0.005)  # a twin tells nobody that it was called
    second = await pair.http.get("/function/hello")
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert '"small"' in second.json()["error"]["message"]
    assert Decimal((await show(pair, "small"))["held"]) == Decimal("0.000006450013")
    running[0].set_result(Reply(True, b"1", 10))
    assert (await first).status_code == 200
    pair.host.world.function = lambda payload: Reply(True, b"1", 10)
    assert (await pair.http.get("/function/hello")).status_code == 200


async def test_a_budget_outlives_every_gateway_and_a_raised_one_lets_calls_in_again(
    pair: Pair, put: Set, redis_url: str, data_dir: Path
) -> None:
    await pair.deploy()
    await put("small", limit="0.0000001", hard=True)
    assert (await pair.http.get("/function/hello")).status_code == 200
    async with serving(redis_url, data_dir, name="gw-2") as fresh:
        await fresh.gateway.pulse.look()
        assert (await fresh.http.get("/function/hello")).status_code == 402
        raised = await put("small", limit="1", hard=True)
        assert Decimal(raised["spent"]) == COUNTED
        assert (await pair.http.get("/function/hello")).status_code == 200
        async with asyncio.timeout(10):
            while (await fresh.http.get("/function/hello")).status_code != 200:
                pass
    assert (await pair.http.delete("/v1/budgets/small")).status_code == 204
    assert (await pair.http.get("/v1/budgets/small")).status_code == 404
    assert not pair.served.gateway.budgets.guard.active


async def test_calls_of_other_functions_go_on(pair: Pair, put: Set) -> None:
    await pair.deploy("hello", tags={"team": "x"})
    await pair.deploy("other", tags={"team": "y"})
    await put("one", limit="0.0000001", hard=True, function="hello")
    await put("team", limit="0.0000009", hard=True, tag="team=y", per="month")
    assert [(await pair.http.get("/function/hello")).status_code for _ in range(2)] == [200, 402]
    assert [(await pair.http.get("/function/other")).status_code for _ in range(4)] == [200, 200, 200, 402]
    assert Decimal((await show(pair, "team"))["spent"]) == 3 * COUNTED


async def test_an_asynchronous_call_waits_for_a_budget_and_is_run_when_it_was_raised(pair: Pair, put: Set) -> None:
    await pair.deploy(retries=1)
    await put("small", limit="0.000000001", hard=True)
    pair.host.world.function = lambda payload: FAILED
    first = await pair.call()  # accepted while anything is left; its second attempt finds nothing
    async with asyncio.timeout(10):
        while (await show(pair, "small"))["state"] != "used up":
            await asyncio.sleep(0.01)
    assert (await pair.show(first))["state"] in ("queued", "running")
    pair.host.world.function = lambda payload: Reply(True, b"1", 10)
    await put("small", limit="1", hard=True)
    await pair.redis.zadd(keys.LATER, {first: 0}, xx=True)  # the half minute is over
    assert (await pair.end(first))["state"] == "done"
    found = await show(pair, "small")
    assert (Decimal(found["spent"]), found["held"]) == (2 * COUNTED, "0")


async def test_what_waits_for_a_budget_dies_at_its_age(pair: Pair, put: Set) -> None:
    await pair.deploy(retries=5, max_age_s=1.5)
    await put("small", limit="0.000000001", hard=True)
    pair.host.world.function = lambda payload: FAILED
    call = await pair.call()
    record = await pair.end(call)
    assert (record["state"], record["reason"]) == ("dead", "expired")
    assert len([one for one in await pair.attempts(call) if one.billed_ms]) == 1


async def test_an_idempotent_call_counts_once(pair: Pair, put: Set) -> None:
    await pair.deploy()
    await put("small", limit="1", hard=True)
    answers = await asyncio.gather(
        *(pair.http.get("/function/hello", headers={"idempotency-key": "k"}) for _ in range(4))
    )
    assert [answer.status_code for answer in answers] == [200] * 4
    found = await show(pair, "small")
    assert (Decimal(found["spent"]), found["held"]) == (COUNTED, "0")


async def test_what_a_lost_host_held_comes_back(pair: Pair) -> None:
    store, key = BudgetStore(pair.redis), keys.spending("default", "tenant", "2026-11")
    hold = Hold(1, 1, 60, 7, (key,))
    now_ms = 7 * spending.SLOT_MS
    asked = [Asked(hold, (100,))] * 3
    assert await store.reserve(asked, now_ms) == [(0, 0), (0, 0), (-1, 0)]  # held: 60, then 120
    assert (await store.spent([key], now_ms))[0].held == 120
    assert (await store.spent([key], now_ms + spending.SLOT_MS))[0].held == 0
    await store.release(hold)
    assert await store.reserve([Asked(hold._replace(slot=8), (100,))], now_ms + spending.SLOT_MS) == [(0, 0)]
