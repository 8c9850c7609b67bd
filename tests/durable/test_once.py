"""Idempotency-Key: one execution per key and function, whoever asks, however often, through whichever gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from invoker.attempt import Attempt, Known
from invoker.sandbox import Exit, Reply
from jiffy.contract import keys, limits
from jiffy.contract.messages import Call, Outcome
from jiffy.contract.wire import unpack
from tests.durable.conftest import FAILED, Pair
from tests.gateway.conftest import serving

pytestmark = pytest.mark.redis
KEY = {"Idempotency-Key": "order-4711"}
INVOKE = "/v1/functions/hello/invocations"


@pytest.fixture
async def counting(pair: Pair) -> Pair:
    """Its function answers how often it ran."""
    await pair.deploy()
    runs = iter(range(1, 1000))
    pair.host.world.function = lambda payload: Reply(True, b'{"run":%d}' % next(runs), 10)
    return pair


def told(answer: httpx.Response) -> tuple[int, Any, str | None]:
    return answer.status_code, answer.json(), answer.headers.get("idempotent-replayed")


@pytest.mark.parametrize("path", [INVOKE, "/function/hello/orders?x=1"])
async def test_a_repeated_call_is_answered_and_not_run(counting: Pair, path: str) -> None:
    first = await counting.http.post(path, json={"n": 1}, headers=KEY)
    again = await counting.http.post(path, json={"n": 1}, headers=KEY)
    assert told(first) == (200, {"run": 1}, None)
    assert told(again) == (200, {"run": 1}, "true")
    for name in ("jiffy-invocation-id", "jiffy-duration-ms", "jiffy-billed-ms", "jiffy-cold", "jiffy-outcome"):
        assert first.headers[name] == again.headers[name]
    assert len(await counting.attempts(first.headers["jiffy-invocation-id"])) == 1


async def test_other_keys_other_functions_and_calls_without_one_are_run(counting: Pair) -> None:
    await counting.deploy("other")
    assert (await counting.http.post(INVOKE, json={}, headers=KEY)).json() == {"run": 1}
    assert (await counting.http.post(INVOKE, json={}, headers={"Idempotency-Key": "b"})).json() == {"run": 2}
    assert (await counting.http.post("/v1/functions/other/invocations", json={}, headers=KEY)).json() == {"run": 3}
    assert (await counting.http.post(INVOKE, json={})).json() == {"run": 4}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", INVOKE, b'{"n":2}'),
        ("POST", INVOKE + "?mode=async", b'{"n":1}'),
        ("PUT", "/function/hello", b'{"n":1}'),
    ],
)
async def test_a_key_that_comes_with_another_request_is_422(
    counting: Pair, method: str, path: str, body: bytes
) -> None:
    await counting.http.post(INVOKE, content=b'{"n":1}', headers=KEY)
    refused = await counting.http.request(method, path, content=body, headers=KEY)
    assert refused.status_code == 422 and refused.json()["error"]["code"] == "idempotency_key_reused"
    assert (await counting.http.post(INVOKE, content=b'{"n":1}', headers=KEY)).json() == {"run": 1}


async def test_callers_at_the_same_time_wait_for_the_one_that_runs(pair: Pair, redis_url: str, data_dir: Path) -> None:
    await pair.deploy()
    end: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    def function(payload: bytes) -> asyncio.Future[Reply | Exit]:
        assert not begun.is_set(), "it runs once"
        begun.set()
        return end

    pair.host.world.function = function
    async with serving(redis_url, data_dir, name="gw-2") as second:
        await second.gateway.pulse.look()
        callers = [
            asyncio.ensure_future(http.post(INVOKE, json={}, headers=KEY))
            for http in (pair.http, second.http)
            for _ in range(5)
        ]
        await begun.wait()
        end.set_result(Reply(True, b'"done"', 10))
        answers = await asyncio.gather(*callers)
    assert {answer.text for answer in answers} == {'"done"'}
    assert len({answer.headers["jiffy-invocation-id"] for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", *["true"] * 9]


async def test_the_gateway_that_took_the_first_call_may_be_gone(pair: Pair, redis_url: str, data_dir: Path) -> None:
    await pair.deploy()
    end: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()
    pair.host.world.function = lambda payload: begun.set() or end  # type: ignore[func-returns-value]
    async with serving(redis_url, data_dir, name="gw-2") as first:
        await first.gateway.pulse.look()
        lost = asyncio.ensure_future(first.http.post(INVOKE, json={}, headers=KEY))
        await begun.wait()
        first.gateway.dispatcher.give_up()
        assert (await lost).status_code == 502
    later = asyncio.ensure_future(pair.http.post(INVOKE, json={}, headers=KEY))
    end.set_result(Reply(True, b'"done"', 10))
    assert told(await later) == (200, "done", "true")


async def test_a_functions_failure_is_its_answer_too(pair: Pair) -> None:
    await pair.deploy()
    pair.host.world.function = lambda _: FAILED
    first = await pair.http.post("/function/hello", headers=KEY)
    pair.host.world.function = lambda payload: Reply(True, payload, 10)
    assert told(await pair.http.post("/function/hello", headers=KEY)) == (502, first.json(), "true")


async def test_a_call_that_never_began_is_tried_anew(counting: Pair) -> None:
    await counting.host.executor.stop()  # it reads no more
    await counting.host.running
    first = asyncio.ensure_future(counting.http.post(INVOKE, json={}, headers=KEY))
    [(entry, packed)] = await counting.host.store.read(1, 10_000)
    call = unpack(Call, packed)
    attempt = Attempt(entry, call, Known.unpack(call.revision), 1, 0, counting.host.executor)
    refused = attempt.completion("inv-1", call.accepted_ms * 1000, Outcome.THROTTLED, b"{}")
    await counting.host.store.complete([refused])
    assert (await first).status_code == 429
    await counting.host.stop()
    await counting.host.start()
    assert told(await counting.http.post(INVOKE, json={}, headers=KEY)) == (200, {"run": 1}, None)


async def test_asynchronous_calls_too(counting: Pair) -> None:
    first = await counting.http.post(INVOKE, params={"mode": "async"}, json={}, headers=KEY)
    again = await counting.http.post(INVOKE, params={"mode": "async"}, json={}, headers=KEY)
    assert first.status_code == again.status_code == 202 and first.json() == again.json()
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert (await counting.end(first.json()["invocation"]))["result"] == {"run": 1}
    assert (await counting.tally())["accepted"] == 1


async def test_a_key_is_forgotten_after_its_window(counting: Pair) -> None:
    first = await counting.http.post(INVOKE, json={}, headers=KEY)
    names = await counting.redis.keys(keys.once("default", "hello", "*"))
    record = keys.invocation(first.headers["jiffy-invocation-id"])
    for name in (*names, record):
        assert limits.ONCE_KEEP_S - 60 < await counting.redis.ttl(name) <= limits.ONCE_KEEP_S
    await counting.redis.delete(*names)
    assert (await counting.http.post(INVOKE, json={}, headers=KEY)).json() == {"run": 2}


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_keys_that_are_none_are_400(counting: Pair, key: str) -> None:
    for path in (INVOKE, "/function/hello"):
        answer = await counting.http.post(path, json={}, headers={"Idempotency-Key": key})
        assert answer.status_code == 400 and "Idempotency-Key" in json.loads(answer.text)["error"]["message"]


async def test_one_users_answer_is_not_anothers(pair: Pair) -> None:
    await pair.deploy()
    pair.host.world.function = lambda _: Reply(True, b'{"statusCode":200,"body":"yours","cookies":["session=1"]}', 10)
    path = "/function/hello"
    for name in ("authorization", "cookie"):
        key = {"Idempotency-Key": f"1-{name}"}
        first = await pair.http.post(path, headers=key | {name: "alice"})
        assert (first.text, first.headers["set-cookie"]) == ("yours", "session=1")
        pair.http.cookies.clear()
        again = await pair.http.post(path, headers=key | {name: "alice"})
        assert (again.text, again.headers["idempotent-replayed"]) == ("yours", "true")
        assert "set-cookie" not in again.headers
        for other in ({name: "mallory"}, {}):
            refused = await pair.http.post(path, headers=key | other)
            assert refused.status_code == 422 and "yours" not in refused.text
