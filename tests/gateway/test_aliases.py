"""Calls by an alias: over HTTP, directly, by a route; moved, shared, removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from jiffy.contract import wire
from jiffy.contract.messages import Revision
from tests.gateway.conftest import Invokers, Served, serving
from tests.gateway.fake_invoker import publish

pytestmark = pytest.mark.redis
ROUTE = {"type": "http", "name": "http", "path": "/prod", "methods": ["ANY"], "host": "", "cors": {}}
ROUTE |= {"body_max_bytes": 0, "rate_per_s": 0.0, "burst": 0, "rate_per": "route", "response": {}, "redirect": {}}
ROUTE |= {"compress": False, "etag": False, "alias": "prod"}


async def deployed(redis_url: str, served: Served, last: int = 3) -> None:
    for number in range(1, last + 1):
        await publish(redis_url, number=number, routes=("ANY /prod",), spec={"triggers": [ROUTE]})
    await served.gateway.catalog.resync()


async def put(served: Served, alias: str, **weights: int) -> httpx.Response:
    body = {"weights": {name.removeprefix("r"): percent for name, percent in weights.items()}}
    return await served.http.put(f"/v1/functions/hello/aliases/{alias}", json=body)


async def test_calls_run_what_the_alias_names(redis_url: str, served: Served, invoker: Invokers) -> None:
    await deployed(redis_url, served)
    async with invoker() as fake:
        assert (await put(served, "prod", r2=100)).json() == {
            "function": "hello",
            "alias": "prod",
            "weights": {"2": 100},
        }
        answers = [await served.http.get(path) for path in ("/function/hello", "/function/hello:prod", "/prod")]
        answers += [await served.http.get("/function/hello:1/x"), await served.http.get("/function/hello:prod/x")]
        answers.append(await served.http.post("/v1/functions/hello:prod/invocations", json={}))
        assert [answer.headers["jiffy-revision"] for answer in answers] == ["3", "2", "2", "1", "2", "2"]
        ran = [wire.unpack(Revision, call.revision).number for call in fake.calls]
        assert ran == [3, 2, 2, 1, 2, 2]
        queued = await served.http.post("/v1/functions/hello:prod/invocations?mode=async", json={})
        assert queued.headers["jiffy-revision"] == "2"
        await put(served, "prod", r1=100)
        assert (await served.http.get("/prod")).headers["jiffy-revision"] == "1"


async def test_calls_are_shared_and_the_rest_is_the_live_one_s(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await deployed(redis_url, served)
    async with invoker():
        shared = await put(served, "canary", r2=50)
        assert shared.json()["weights"] == {"2": 50, "live": 50}
        answers = [await served.http.get("/function/hello:canary") for _ in range(60)]
        assert {answer.headers["jiffy-revision"] for answer in answers} == {"2", "3"}
        await publish(redis_url, number=4)
        await served.gateway.catalog.resync()
        answers = [await served.http.get("/function/hello:canary") for _ in range(60)]
        assert {answer.headers["jiffy-revision"] for answer in answers} == {"2", "4"}


async def test_what_is_not_there_is_said(redis_url: str, served: Served) -> None:
    await deployed(redis_url, served)
    for path in ("/function/hello:nope", "/function/hello:9", "/function/hello:", "/function/nope:prod", "/prod"):
        assert (await served.http.get(path)).status_code == 404, path
    missing = await put(served, "prod", r9=100)
    assert missing.status_code == 404 and "no revision 9" in missing.json()["error"]["message"]
    for alias, weights in (("prod", {"r1": 60, "r2": 50}), ("Prod", {"r1": 100}), ("prod", {}), ("prod", {"x": 1})):
        assert (await put(served, alias, **weights)).status_code == 400
    assert (await served.http.put("/v1/functions/nope/aliases/prod", json={"weights": {"1": 100}})).status_code == 404
    await put(served, "prod", r1=100)
    listed = (await served.http.get("/v1/functions/hello/aliases")).json()["aliases"]
    assert listed == [{"alias": "prod", "weights": {"1": 100}}]
    assert (await served.http.delete("/v1/functions/hello/aliases/prod")).status_code == 204
    assert (await served.http.delete("/v1/functions/hello/aliases/prod")).status_code == 404
    assert (await served.http.get("/function/hello:prod")).status_code == 404


async def test_other_gateways_follow(redis_url: str, served: Served, data_dir: Path) -> None:
    other_data = data_dir / "other"
    other_data.mkdir()
    async with serving(redis_url, other_data, name="gw-2") as other:
        await deployed(redis_url, served)
        await put(served, "prod", r2=100)
        async with asyncio.timeout(10):
            while (found := other.gateway.catalog.named("default", "hello", "prod")) is None:
                await asyncio.sleep(0.005)
        assert found.revision.number == 2


async def test_all_that_is_set_at_the_same_time_is_there(redis_url: str, served: Served) -> None:
    await deployed(redis_url, served)
    answers = await asyncio.gather(*(put(served, f"a{n}", r1=100) for n in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    listed = (await served.http.get("/v1/functions/hello/aliases")).json()["aliases"]
    assert len(listed) == 8
