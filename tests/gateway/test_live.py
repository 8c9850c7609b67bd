"""Putting another revision of a function in service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from jiffy.contract import keys
from tests.gateway.conftest import Invokers, Served
from tests.gateway.fake_invoker import publish

pytestmark = pytest.mark.redis
LIVE = "/v1/functions/hello/live"


async def revisions(redis_url: str, served: Served, *numbers: int) -> None:
    for number in numbers:
        await publish(redis_url, number=number)
    await served.gateway.catalog.resync()


async def test_the_revision_before_is_back_in_service_at_once(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await revisions(redis_url, served, 1, 2, 4)
    async with invoker(), Redis.from_url(redis_url, protocol=2) as redis, redis.pubsub() as changes:
        await changes.subscribe(keys.FUNCTIONS_CHANGED)
        for body, number, before in ((b"", 2, 4), (b'{"revision": 4}', 4, 2), (b"{}", 2, 4), (b" ", 1, 2)):
            moved = await served.http.post(LIVE, content=body)
            assert moved.json() == {"function": "hello", "revision": number, "before": before}
            assert (await served.http.get("/function/hello")).headers["jiffy-revision"] == str(number)
        told = [await changes.get_message(timeout=5) for _ in range(5)]
        assert [m["data"] for m in told if m] == [1, *[b"default:hello"] * 4]  # 1: it has subscribed
        assert await redis.hget(keys.function("default", "hello"), "latest") == b"4"  # the next deploy makes 5
    shown = (await served.http.get("/v1/functions/hello")).json()
    assert [(r["revision"], r["live"]) for r in shown["revisions"]] == [(4, False), (2, False), (1, True)]


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v1/functions/nosuch/live", {}, 404, "there is no function 'nosuch'"),
        (LIVE, {}, 409, "hello has no revision before 3, which is live"),
        (LIVE, {"revision": 9}, 404, "function 'hello' has no revision 9; there are 5, 3"),
        (LIVE, {"revision": "3"}, 400, "allowed: a whole number from 1"),
        (LIVE, {"revision": True}, 400, "allowed: a whole number from 1"),
        (LIVE, {"number": 3}, 400, "the body must be"),
        (LIVE, [3], 400, "the body must be"),
    ],
)
async def test_what_can_not_be_put_in_service(
    redis_url: str, served: Served, path: str, body: Any, status: int, text: str
) -> None:
    await revisions(redis_url, served, 5, 3)
    answer = await served.http.post(path, content=json.dumps(body))
    assert answer.status_code == status and text in answer.json()["error"]["message"]


async def test_a_route_that_is_another_functions_now_keeps_a_revision_out_of_service(
    redis_url: str, served: Served
) -> None:
    await publish(redis_url, number=1, routes=("GET /hi",))
    await publish(redis_url, number=2)
    await publish(redis_url, "other", routes=("GET /hi",))
    await served.gateway.catalog.resync()
    answer = await served.http.post(LIVE)
    assert answer.status_code == 409 and "'GET /hi', which belongs to 'other' now" in answer.json()["error"]["message"]
