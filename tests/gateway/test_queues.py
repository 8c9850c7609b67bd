"""A queue calls its function through a whole gateway; edits, pauses and other gateways are minded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.triggers.sources.doors import Doors
from jiffy.contract import triggers
from tests import servers
from tests.conftest import need
from tests.gateway.conftest import Invokers, Served, serving
from tests.gateway.fake_invoker import FakeInvoker, publish
from tests.gateway.test_triggers import deploy, until
from tests.triggers.brokers import MOSQUITTO, Queue, mqtt_broker, redis_queue

PATH = "/v1/triggers/report/q"


@pytest.fixture
async def stream(redis_server: servers.RedisServer, redis_url: str) -> AsyncIterator[Queue]:
    async with redis_queue("redis+stream", redis_server) as found:
        yield found


def table(queue: Queue, **options: Any) -> dict[str, Any]:
    return {"type": "queue", "name": "q", "source": queue.source} | options


async def bodies(fake: FakeInvoker, count: int) -> list[str]:
    async with asyncio.timeout(20):
        while True:
            found = [r["body"] for call in fake.calls for r in json.loads(call.payload)["Records"]]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_messages_reach_the_function_and_are_seen(
    served: Served, invoker: Invokers, redis_url: str, stream: Queue
) -> None:
    async with invoker() as fake:
        await stream.put("a", "b")
        await deploy(served, redis_url, table(stream, batch_size=2))
        assert await bodies(fake, 2) == ["a", "b"]
        assert {call.trigger for call in fake.calls} == {"queue q"}
        assert {call.mode for call in fake.calls} == {"sync"}
        document = await until(served, PATH, lambda d: d["fired"] and d["last"])
        assert (document["state"], document["failed"], document["dead"]) == ("active", 0, 0)
        assert (await served.http.get(f"{PATH}/logs")).json()["entries"][-1]["kind"] == "fired"


async def test_a_pause_holds_and_an_edit_takes_effect(
    served: Served, invoker: Invokers, redis_url: str, stream: Queue
) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, table(stream))
        await stream.put("before")
        await bodies(fake, 1)
        await served.http.post(f"{PATH}/pause")
        async with asyncio.timeout(10):
            while served.gateway.triggers.queues.serving():
                await asyncio.sleep(0.01)
        await stream.put("in the pause")
        assert await bodies(fake, 1) == ["before"]
        await served.http.post(f"{PATH}/resume")
        assert await bodies(fake, 2) == ["before", "in the pause"]
        await deploy(served, redis_url, table(stream, filter={"body": ["wanted"]}), number=2)
        async with asyncio.timeout(10):
            while [t.options["filter"] for t in served.gateway.triggers.queues.serving()] != [{"body": ["wanted"]}]:
                await asyncio.sleep(0.01)
        await stream.put("unwanted", "wanted")
        assert await bodies(fake, 3) == ["before", "in the pause", "wanted"]
        await deploy(served, redis_url, number=3)
        async with asyncio.timeout(10):
            while served.gateway.triggers.queues.serving():
                await asyncio.sleep(0.01)


async def test_one_gateway_at_a_time_serves_a_queue_and_another_takes_over(
    served: Served, invoker: Invokers, redis_url: str, data_dir: Path, stream: Queue
) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, table(stream, batch_size=1))
        await stream.put("1")
        await bodies(fake, 1)
        async with serving(redis_url, data_dir, name="gw-2") as other:
            await other.gateway.triggers.queues.look()
            assert served.gateway.triggers.queues.serving() and not other.gateway.triggers.queues.serving()
            await served.gateway.loops.stop()
            await other.gateway.triggers.queues.look()
            assert other.gateway.triggers.queues.serving()
            await stream.put("2")
            assert await bodies(fake, 2) == ["1", "2"]


async def test_a_queue_that_is_not_there_is_told_without_its_password(served: Served, redis_url: str) -> None:
    source = "redis+stream://reader:secret@127.0.0.1:1/0/in"
    await publish(redis_url, "other")
    await deploy(served, redis_url, {"type": "queue", "name": "q", "source": source})
    document = await until(served, PATH, lambda d: d["error"])
    assert document["state"] == "failing"
    assert document["options"]["source"] == "redis+stream://reader:***@127.0.0.1:1/0/in"
    for path in ("/v1/triggers", PATH, f"{PATH}/logs", "/v1/functions/report"):
        assert "secret" not in (await served.http.get(path)).text


async def test_a_server_that_answers_nonsense_is_told_and_the_trigger_tries_on(served: Served, redis_url: str) -> None:
    async def yes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To each command of Redis's protocol; no client makes a list of messages of it."""
        while line := await reader.readline():
            if line.startswith(b"*"):
                writer.write(b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(yes, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        source = f"redis+stream://reader:secret@127.0.0.1:{port}/0/in"
        await deploy(served, redis_url, {"type": "queue", "name": "q", "source": source})
        document = await until(served, PATH, lambda d: d["error"])
        assert document["state"] == "failing" and "can't be read" in document["error"]
        logged = (await served.http.get(f"{PATH}/logs")).json()["entries"]
        assert any("can't be read" in entry["text"] for entry in logged)


def test_a_client_library_that_is_missing_is_named() -> None:
    source = {"type": "queue", "source": "nats://127.0.0.1:4222/S/s"}
    assert Doors().missing(triggers.check([source])) == ""
    without = Doors().missing(triggers.check([source]), installed=lambda name: False)
    assert without == "trigger 'queue' needs nats on the gateways: pip install 'jiffy[nats]'"


async def test_a_lease_that_can_not_be_renewed_ends_its_consumer(served: Served, redis_url: str) -> None:
    need("" if MOSQUITTO else "there is no mosquitto (apt: mosquitto)")
    with mqtt_broker() as port:
        queues = served.gateway.triggers.queues
        await deploy(served, redis_url, {"type": "queue", "name": "q", "source": f"mqtt://127.0.0.1:{port}/in"})
        async with asyncio.timeout(20):
            while not queues.serving():
                await asyncio.sleep(0.01)
            async with Redis.from_url(redis_url, protocol=2) as redis:
                await redis.client_pause(8000)  # the platform's Redis is silent for longer than a lease lasts
            while queues.serving():
                await asyncio.sleep(0.01)
            while not queues.serving():
                await asyncio.sleep(0.01)
