"""An accepted asynchronous call ends once: results, retries, delays, bounds; seen over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.durable.cancellation import Cancellation
from gateway.durable.store import DurableStore
from invoker.sandbox import Reply
from jiffy.contract import keys
from jiffy.contract.messages import InvocationRecord
from tests.durable.conftest import FAILED, Pair
from tests.gateway.conftest import serving
from tests.gateway.fake_invoker import publish

pytestmark = pytest.mark.redis


def failing(times: int) -> Any:
    """A function that fails so often, then echoes."""
    left: Iterator[None] = iter([None] * times)
    return lambda payload: FAILED if next(left, 0) is None else Reply(True, payload, 10)


async def test_a_function_that_recovers_has_a_result(pair: Pair) -> None:
    await pair.deploy(retries=2)
    pair.host.world.function = failing(2)
    record = await pair.end(await pair.call(event={"n": 7}))
    assert (record["state"], record["attempts"], record["result"]) == ("done", 3, {"n": 7})
    assert await pair.tally() == {"accepted": 1, "retried": 2, "done": 1, "bytes": 0}
    assert await pair.backlog() == 0


async def test_a_result_is_kept_as_long_as_its_function_says(pair: Pair) -> None:
    await pair.deploy("short", result_keep_s=60)
    await pair.deploy("usual")
    for name, keep_s in (("short", 60), ("usual", 86400)):
        invocation = await pair.call(name)
        assert (await pair.end(invocation))["state"] == "done"
        assert keep_s - 30 < await pair.redis.ttl(keys.invocation(invocation)) <= keep_s


async def test_a_function_that_does_not_is_dead_with_its_error(pair: Pair) -> None:
    await pair.deploy(retries=1)
    pair.host.world.function = failing(9)
    invocation = await pair.call()
    record = await pair.end(invocation)
    assert (record["state"], record["reason"], record["attempts"]) == ("dead", "retries_exhausted", 2)
    assert record["error"]["errorType"] == "ValueError"
    assert await pair.tally() | {"dead_bytes": 0} == {
        "accepted": 1,
        "retried": 1,
        "dead": 1,
        "dead_bytes": 0,
        "bytes": 0,
    }


@pytest.mark.parametrize(
    ("query", "headers"),
    [({"retries": "0"}, {}), ({}, {"Jiffy-Retries": "0"}), ({"retries": "0"}, {"Jiffy-Retries": "9"})],
)
async def test_a_call_may_wish_for_other_retries(pair: Pair, query: dict[str, str], headers: dict[str, str]) -> None:
    await pair.deploy(retries=5)
    pair.host.world.function = failing(99)
    path = "/v1/functions/hello/invocations"
    answer = await pair.http.post(path, params={"mode": "async"} | query, headers=headers, json={})
    assert (await pair.end(answer.json()["invocation"]))["attempts"] == 1


async def test_a_retry_that_would_come_too_late_is_not_waited_for(pair: Pair) -> None:
    await pair.deploy(retries=100, backoff_s=3600.0)
    pair.host.world.function = failing(999)
    record = await pair.end(await pair.call(max_age=1))
    assert (record["state"], record["reason"]) == ("dead", "expired")


async def test_a_delayed_call_waits_for_its_time(pair: Pair) -> None:
    await pair.deploy()
    invocation = await pair.call(delay=0.3)
    waiting = await pair.show(invocation)
    assert (waiting["state"], waiting["attempts"]) == ("queued", 0)
    assert waiting["due_ms"] == waiting["accepted_ms"] + 300
    assert pair.host.world.used == [], "nothing was started"
    await pair.end(invocation, "done")
    [attempt] = await pair.attempts(invocation)
    assert attempt.started_ms >= waiting["due_ms"]


async def test_a_delayed_call_needs_no_invoker_until_it_is_due(redis_url: str, data_dir: Path, pair: Pair) -> None:
    await pair.deploy()
    await pair.host.stop()
    invocation = await pair.call(delay=0.05)
    await pair.host.start()
    assert (await pair.end(invocation))["state"] == "done"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"mode": "async", "delay": "soon"}, "a number of seconds"),
        ({"mode": "async", "delay": "-1"}, "a number of seconds"),
        ({"mode": "async", "delay": "nan"}, "a number of seconds"),
        ({"mode": "async", "max_age": "0"}, "from 1 to 604800"),
        ({"mode": "async", "retries": "1.5"}, "a whole number"),
        ({"mode": "async", "retries": "101"}, "from 0 to 100"),
        ({"mode": "sync", "delay": "1"}, "belongs to mode=async"),
        ({"retries": "1"}, "belongs to mode=async"),
    ],
)
async def test_wishes_that_make_no_sense_are_400(pair: Pair, query: dict[str, str], says: str) -> None:
    await pair.deploy()
    answer = await pair.http.post("/v1/functions/hello/invocations", params=query, json={})
    assert answer.status_code == 400 and says in answer.json()["error"]["message"]
    assert await pair.tally() == {}


async def test_any_number_of_gateways_moves_each_call_once(redis_url: str, data_dir: Path, pair: Pair) -> None:
    await pair.deploy()
    ran: list[bytes] = []
    pair.host.world.function = lambda payload: ran.append(payload) or Reply(True, payload, 10)  # type: ignore[func-returns-value]
    async with serving(redis_url, data_dir, name="gw-2") as second, serving(redis_url, data_dir, name="gw-3") as third:
        for other in (second, third):
            await other.gateway.pulse.look()
        calls = await asyncio.gather(*(pair.call(event={"n": n}, delay=0.1) for n in range(100)))
        for n, invocation in enumerate(calls):
            assert (await pair.end(invocation))["result"] == {"n": n}
    assert len(ran) == len(set(ran)) == 100
    assert await pair.redis.get(keys.METERED) == b"100"
    assert (await pair.tally())["done"] == 100 and await pair.backlog() == 0


async def test_a_full_backlog_refuses_and_says_when_to_come_again(pair: Pair) -> None:
    await pair.deploy()
    acceptance = pair.served.gateway.durable.acceptance
    acceptance.bounds = acceptance.bounds._replace(calls=2)
    waiting = [await pair.call(delay=60) for _ in range(2)]
    path = "/v1/functions/hello/invocations"
    refused = await pair.http.post(path, params={"mode": "async"}, json={})
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert "default has 2 asynchronous calls" in refused.json()["error"]["message"]
    await publish(pair.host.url, "hello", tenant="acme")
    others = await pair.served.gateway.catalog.find("acme", "hello")
    assert await acceptance.accept(others, b"{}", trigger="http"), "it is one tenant's bound"
    assert (await pair.http.delete(f"/v1/invocations/{waiting[0]}")).status_code == 200
    assert (await pair.end(await pair.call()))["state"] == "done", "there is room again"


async def test_a_backlog_is_bounded_in_bytes_too(pair: Pair) -> None:
    await pair.deploy()
    acceptance = pair.served.gateway.durable.acceptance
    acceptance.bounds = acceptance.bounds._replace(payload_bytes=1000)
    await pair.call(event={"x": "y" * 600}, delay=60)
    path = "/v1/functions/hello/invocations"
    refused = await pair.http.post(path, params={"mode": "async"}, json={"x": "y" * 600})
    assert refused.status_code == 429
    assert (await pair.end(await pair.call(event={"x": "y"})))["state"] == "done"


async def test_what_cannot_be_read_does_not_keep_others_waiting(pair: Pair) -> None:
    await pair.deploy()
    await pair.redis.zadd(keys.LATER, {"broken": 1, "lost": 2})
    await pair.redis.hset(keys.LATER_CALLS, "broken", b"rubbish")
    assert (await pair.end(await pair.call(delay=0.01)))["state"] == "done"
    assert await pair.redis.zrange(keys.LATER, 0, -1) == [b"broken"], "one without a call is gone"


async def test_a_queued_call_can_be_taken_back(pair: Pair) -> None:
    await pair.deploy()
    invocation = await pair.call(event={"n": 1}, delay=60)
    answer = await pair.http.delete(f"/v1/invocations/{invocation}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert (await pair.show(invocation))["state"] == "cancelled"
    again = await pair.http.delete(f"/v1/invocations/{invocation}")
    assert again.status_code == 409 and "cancelled" in again.json()["error"]["message"]
    assert await pair.tally() == {"accepted": 1, "cancelled": 1, "bytes": 0}
    assert await pair.redis.zcard(keys.LATER) == await pair.redis.hlen(keys.LATER_CALLS) == await pair.backlog() == 0


async def test_what_is_taken_back_between_two_attempts_has_had_the_first(pair: Pair) -> None:
    """Even when its record was read before that one ended."""
    await pair.deploy(retries=2, backoff_s=3600.0)
    pair.host.world.function = failing(1)
    invocation = await pair.call()
    await pair.end(invocation, "queued")
    async with asyncio.timeout(15):
        while (record := await pair.served.gateway.store.invocation(invocation)) is None or not record.due_ms:
            await asyncio.sleep(0.01)

    class Before:
        async def invocation(self, invocation: str) -> InvocationRecord | None:
            return record._replace(attempts=0, due_ms=0)

    gateway = pair.served.gateway
    store = DurableStore(gateway.store.client)
    cancelled = await Cancellation(Before(), store, gateway.budgets.guard).cancel("default", invocation)
    await store.close()
    assert (cancelled.state, cancelled.attempts) == ("cancelled", 1)
    assert (await pair.show(invocation))["attempts"] == 1


async def test_a_call_on_a_stream_can_be_taken_back_until_an_invoker_has_it(pair: Pair) -> None:
    await pair.deploy()
    await pair.host.executor.stop()  # it reads no more
    await pair.host.running
    invocation = await pair.call(event={"n": 1})
    assert (await pair.http.delete(f"/v1/invocations/{invocation}")).json()["state"] == "cancelled"
    assert await pair.redis.xlen(keys.calls("inv-1")) == 0
    taken = await pair.call(event={"n": 2})
    await pair.redis.xreadgroup(keys.GROUP, "inv-1", {keys.calls("inv-1"): ">"})
    answer = await pair.http.delete(f"/v1/invocations/{taken}")
    assert answer.status_code == 409 and "with an invoker" in answer.json()["error"]["message"]
    assert await pair.backlog() == 1


@pytest.mark.parametrize("invocation", ["0193f0a1-7c11-7d3e-8a51-2f6b8e0c9d10", "nonsense"])
async def test_what_is_not_there_cannot_be_taken_back(pair: Pair, invocation: str) -> None:
    assert (await pair.http.delete(f"/v1/invocations/{invocation}")).status_code == 404


async def test_a_result_is_the_functions_own_json(pair: Pair) -> None:
    await pair.deploy()
    record = await pair.end(await pair.call(event={"ü": [1, None]}))
    assert json.dumps(record["result"]) == json.dumps({"ü": [1, None]})
