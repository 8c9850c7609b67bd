"""A queue that is killed, restarted or stuck: callers hear of it, and the gateway goes on without a restart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from tests import servers
from tests.gateway.conftest import Served, serving
from tests.gateway.fake_invoker import builder_beat, publish, running

pytestmark = pytest.mark.redis
INVOKE = "/v1/functions/hello/invocations"


@pytest.fixture
def own_server() -> Iterator[servers.RedisServer]:
    """A server for this test alone, which may be killed; its data outlives that."""
    with servers.valkey(persistent=True) as server:
        yield server


@pytest.fixture
async def frail(own_server: servers.RedisServer, data_dir: Path) -> AsyncIterator[Served]:
    await publish(own_server.url)
    await builder_beat(own_server.url)
    async with running(own_server.url), serving(own_server.url, data_dir) as served:
        assert (await served.http.get("/function/hello")).status_code == 200
        yield served


async def until_well(served: Served) -> httpx.Response:
    async with asyncio.timeout(20):
        while (answer := await served.http.get("/function/hello")).status_code != 200:
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.05)
        return answer


async def test_a_queue_that_is_gone_is_503_and_back_is_well(own_server: servers.RedisServer, frail: Served) -> None:
    own_server.kill()
    for method, path in (
        ("GET", "/function/hello"),
        ("POST", INVOKE),
        ("POST", INVOKE + "?mode=async"),
        ("GET", "/function/never-heard-of"),
        ("GET", "/v1/functions/hello"),
        ("GET", "/healthz"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/invocations/019a0000-0000-7000-8000-000000000000"),
    ):
        answer = await frail.http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable"), path
        assert int(answer.headers["retry-after"]) >= 1, path
    assert (await frail.http.get("/v1/functions")).status_code == 200, "what is in memory is told"
    assert (await frail.http.get("/metrics")).status_code == 200
    own_server.start()
    await until_well(frail)
    await builder_beat(own_server.url)
    await frail.gateway.pulse.look()
    assert (await frail.http.get("/healthz")).status_code == 200
    await publish(own_server.url, "hello", number=2)
    async with asyncio.timeout(10):
        while (await frail.http.get("/function/hello")).headers.get("jiffy-revision") != "2":
            await asyncio.sleep(0.02)
    assert not frail.gateway.loops.failed.is_set()


async def test_calls_in_flight_are_not_forgotten_when_the_queue_restarts(
    own_server: servers.RedisServer, data_dir: Path
) -> None:
    await publish(own_server.url)
    async with running(own_server.url, work=lambda call: None) as silent, serving(own_server.url, data_dir) as served:
        waiting = [asyncio.create_task(served.http.get("/function/hello")) for _ in range(5)]
        async with asyncio.timeout(10):
            while len(silent.calls) < 5:
                await asyncio.sleep(0.005)
        own_server.kill()
        own_server.start()
        silent.work = lambda call: {}
        await silent.answer_again()
        answers = await asyncio.gather(*waiting)
        assert [answer.status_code for answer in answers] == [200] * 5


async def test_callers_of_a_queue_that_stays_away_are_told(own_server: servers.RedisServer, data_dir: Path) -> None:
    await publish(own_server.url)
    async with running(own_server.url, work=lambda call: None) as silent, serving(own_server.url, data_dir) as served:
        waiting = asyncio.create_task(served.http.get("/function/hello"))
        await silent.seen.wait()
        own_server.kill()
        answer = await waiting
        assert answer.status_code == 503
        assert answer.headers["jiffy-invocation-id"] == silent.calls[0].invocation
        assert len(served.gateway.dispatcher) == 0
        own_server.start()


async def test_a_stuck_queue_holds_nobody_for_ever(own_server: servers.RedisServer, frail: Served) -> None:
    process = own_server._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(frail.http.get("/function/hello") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["retry-after"] for answer in answers)
        assert frail.gateway.admission.calls == 0
    finally:
        os.kill(process.pid, signal.SIGCONT)
    await until_well(frail)


async def test_scripts_that_the_queue_forgot_are_sent_again(own_server: servers.RedisServer, frail: Served) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        client.script_flush()
    assert (await frail.http.get("/function/hello")).status_code == 200
    assert (await frail.http.post(INVOKE, params={"mode": "async"})).status_code == 202


async def test_a_full_queue_is_503_for_new_calls_and_well_when_it_has_room(
    own_server: servers.RedisServer, frail: Served
) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory", "1")
        answers = [
            await frail.http.get("/function/hello"),
            await frail.http.post(INVOKE, json={}),
            await frail.http.post(f"{INVOKE}?mode=async", json={}),
        ]
        client.config_set("maxmemory", "0")
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    await until_well(frail)
