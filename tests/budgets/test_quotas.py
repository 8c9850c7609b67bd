"""Quotas: so many calls a second, and so many at the same time, over all gateways; the others hear which and when."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from invoker.sandbox import Reply
from jiffy.contract import keys
from tests.budgets.conftest import Set
from tests.durable.conftest import FAILED, Pair
from tests.gateway.conftest import serving

pytestmark = pytest.mark.redis
SLOW = 0.001  # calls a second: within a test none comes back


async def quota(pair: Pair, name: str = "busy", **document: Any) -> dict[str, Any]:
    answer = await pair.http.put(f"/v1/quotas/{name}", json=document)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def running(pair: Pair, name: str = "busy") -> int:
    return int((await pair.http.get(f"/v1/quotas/{name}")).json()["running"])


class Held:
    """A function that answers when it is told to."""

    def __init__(self, pair: Pair) -> None:
        self.calls: list[asyncio.Future[Any]] = []
        pair.host.world.function = self

    def __call__(self, payload: bytes) -> Any:
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]

    async def came(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.calls) < count:
                await asyncio.sleep(0.005)  # a twin tells nobody that it was called

    def answer(self) -> None:
        for call in self.calls:
            if not call.done():
                call.set_result(Reply(True, b"1", 10))


async def test_two_gateways_together_let_in_what_a_rate_allows(pair: Pair, redis_url: str, data_dir: Path) -> None:
    await pair.deploy()
    await pair.deploy("other")
    async with serving(redis_url, data_dir, name="gw-2") as two:
        await two.gateway.pulse.look()
        assert await quota(pair, rate=SLOW, burst=5, function="hello") == {
            "name": "busy",
            "function": "hello",
            "rate": SLOW,
            "burst": 5,
        }
        answers = await asyncio.gather(*(http.get("/function/hello") for http in (pair.http, two.http) * 6))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 7
        refused = next(answer for answer in answers if answer.status_code == 429)
        message = refused.json()["error"]["message"]
        assert message == 'the quota "busy" (function hello) allows 0.001 calls a second, 5 at once'
        assert 0 < int(refused.headers["retry-after"]) <= 1000
        assert (await two.http.get("/function/other")).status_code == 200
        await quota(pair, rate=1000.0, function="hello")
        assert (await pair.http.get("/function/hello")).status_code == 429  # what was let in counts
        assert (await pair.http.delete("/v1/quotas/busy")).status_code == 204
        assert (await pair.http.get("/function/hello")).status_code == 200
    assert (await pair.http.get("/v1/quotas")).json() == {"quotas": []}


async def test_so_many_at_the_same_time(pair: Pair) -> None:
    await pair.deploy("hello", tags={"team": "x"})
    held = Held(pair)
    await quota(pair, concurrency=2, tag="team=x")
    calls = [asyncio.create_task(pair.http.get("/function/hello")) for _ in range(2)]
    await held.came(2)
    assert await running(pair) == 2
    for path in ("/function/hello", "/v1/functions/hello/invocations"):
        refused = await pair.http.post(path, json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert 'quota "busy" (tag team=x) allows 2 calls at the same time' in refused.json()["error"]["message"]
    held.answer()
    assert [(await call).status_code for call in calls] == [200, 200]
    assert await running(pair) == 0


async def test_a_tenants_quotas_count_all_of_its_functions_together(pair: Pair) -> None:
    for name in ("hello", "other"):
        await pair.deploy(name)
    await quota(pair, "often", rate=SLOW, burst=3)
    answers = [await pair.http.get(f"/function/{name}") for name in ("hello", "other") * 2]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 'quota "often" (all functions) allows' in answers[-1].json()["error"]["message"]
    assert (await pair.http.delete("/v1/quotas/often")).status_code == 204
    held = Held(pair)
    await quota(pair, "many", concurrency=2)
    calls = [asyncio.create_task(pair.http.get(f"/function/{name}")) for name in ("hello", "other")]
    await held.came(2)
    refused = await pair.http.get("/function/hello")
    assert (refused.status_code, "(all functions) allows 2 calls" in refused.text) == (429, True)
    held.answer()
    assert [(await call).status_code for call in calls] == [200, 200]


async def test_an_asynchronous_call_waits_for_its_place_and_its_next_attempt_too(pair: Pair) -> None:
    await pair.deploy(retries=1)
    await quota(pair, concurrency=1)
    held = Held(pair)
    first, second = await pair.call(), await pair.call()
    await held.came(1)
    assert await running(pair) == 1
    held.calls[0].set_result(FAILED)
    async with asyncio.timeout(15):
        while {(await pair.show(one))["state"] for one in (first, second)} != {"done"}:
            held.answer()
            await asyncio.sleep(0.01)  # a record that is set tells nobody
    assert len(held.calls) == 3
    assert await running(pair) == 0


async def test_what_was_cancelled_gives_its_place_back(pair: Pair) -> None:
    await pair.deploy(max_instances=1)
    await quota(pair, concurrency=5)
    call = await pair.call(delay=60)
    assert (await pair.http.delete(f"/v1/invocations/{call}")).status_code == 200
    assert await running(pair) == 0


async def test_a_call_is_counted_by_all_of_its_quotas_or_by_none(pair: Pair, put: Set) -> None:
    await pair.deploy()
    await quota(pair, "all", concurrency=10)
    await quota(pair, "one", rate=SLOW, burst=1, function="hello")
    await put("small", limit="1", hard=True)
    assert [(await pair.http.get("/function/hello")).status_code for _ in range(3)] == [200, 429, 429]
    assert await running(pair, "all") == 0
    budget = (await pair.http.get("/v1/budgets/small")).json()
    assert (budget["spent"], budget["held"]) == ("0.000000408334", "0")
    assert len(await pair.redis.keys(keys.quota_rate("default", "*"))) == 1


BAD = (
    ({}, "a rate (calls a second), or a concurrency"),
    ({"rate": 0}, "rate must be a number"),
    ({"rate": "5"}, "rate must be a number"),
    ({"rate": float("1e9")}, "rate must be a number"),
    ({"burst": 5}, "a rate"),
    ({"concurrency": 5, "burst": 5}, "burst belongs to a rate"),
    ({"concurrency": 0}, "concurrency must be"),
    ({"rate": 5, "burst": 1.5}, "burst must be"),
    ({"rate": 5, "function": "a", "tag": "b=c"}, "for a function or for a tag"),
    ({"rate": 5, "speed": 1}, "unknown key 'speed'"),
    ("fast", "a quota is an object"),
)


async def test_what_is_no_quota_is_refused_with_what_is_allowed(pair: Pair) -> None:
    for document, text in BAD:
        answer = await pair.http.put("/v1/quotas/busy", json=document)
        assert (answer.status_code, text in answer.json()["error"]["message"]) == (400, True), answer.text
    assert (await pair.http.get("/v1/quotas/busy")).status_code == 404
