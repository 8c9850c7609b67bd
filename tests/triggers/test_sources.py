"""What every adapter of a queue must do, against its real server."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aio_pika
import pytest

from gateway.triggers.queues import settings
from gateway.triggers.sources.base import Message, Source, SourceError
from gateway.triggers.sources.doors import group
from gateway.triggers.trigger import TriggerId
from tests import servers
from tests.conftest import need
from tests.triggers.brokers import (
    MOSQUITTO,
    RABBITMQ,
    Queue,
    free_port,
    kafka_queue,
    kafka_server,
    mqtt_broker,
    mqtt_queue,
    nats_queue,
    nats_server,
    rabbit_queue,
    rabbit_server,
    redis_queue,
    sqs_queue,
    topic_queue,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    need("" if shutil.which("nats-server") else "there is no nats-server (apt: nats-server)")
    with nats_server() as url:
        yield url


@pytest.fixture(scope="session")
def rabbit_url() -> Iterator[str]:
    need("" if RABBITMQ.exists() else "there is no RabbitMQ (apt: rabbitmq-server)")
    with rabbit_server() as url:
        yield url


@pytest.fixture(scope="session")
def mqtt_port() -> Iterator[int]:
    need("" if MOSQUITTO else "there is no mosquitto (apt: mosquitto)")
    with mqtt_broker() as port:
        yield port


@pytest.fixture(scope="session")
def kafka_at() -> Iterator[str]:
    with kafka_server() as server:
        yield server


@pytest.fixture(params=["redis+stream", "redis+list", "topic", "nats", "amqp", "sqs", "mqtt", "kafka"])
async def queue(
    request: pytest.FixtureRequest, redis_server: servers.RedisServer, redis_url: str
) -> AsyncIterator[Queue]:
    if request.param == "nats":
        made = nats_queue(request.getfixturevalue("nats_url"))
    elif request.param == "topic":
        made = topic_queue(redis_server)
    elif request.param == "amqp":
        made = rabbit_queue(request.getfixturevalue("rabbit_url"))
    elif request.param == "mqtt":
        made = mqtt_queue(request.getfixturevalue("mqtt_port"))
    elif request.param == "kafka":
        made = kafka_queue(request.getfixturevalue("kafka_at"))
    elif request.param == "sqs":
        made = sqs_queue(request.getfixturevalue("amazon_url"))
    else:
        made = redis_queue(request.param, redis_server)
    async with made as found:
        yield found


async def take(source: Source, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await source.take(count - len(found), 0.2)
    return found


def bodies(messages: list[Message]) -> list[str]:
    return [message.body for message in messages]


async def test_messages_come_in_order_once_each_and_no_more_than_asked_for(queue: Queue) -> None:
    source = await queue.opened()
    await queue.put("a", "b", "c")
    first = await source.take(2, 5.0)
    rest = await take(source, 3 - len(first))
    assert len(first) <= 2
    assert bodies(first + rest) == ["a", "b", "c"]
    assert [message.tries for message in first + rest] == [1, 1, 1]
    assert len({message.id for message in first + rest}) == 3
    assert await source.take(10, 0.05) == []
    await source.done(first + rest)
    await source.close()


async def test_one_that_waits_is_told_when_a_message_comes(queue: Queue) -> None:
    source = await queue.opened()
    waiting = asyncio.create_task(source.take(10, 20.0))
    await asyncio.sleep(0)
    await queue.put("late")
    assert bodies(await waiting) == ["late"]
    await source.close()


async def test_what_is_done_is_gone_and_the_rest_comes_again_to_the_next(queue: Queue) -> None:
    source = await queue.opened()
    await queue.put("a", "b", "c")
    messages = await take(source, 3)
    await source.done([messages[1]])
    assert await source.lag() >= 0
    await source.close()
    again = await queue.opened()
    found = await take(again, 2)
    assert sorted(bodies(found)) == ["a", "c"]
    assert all(message.tries >= 2 for message in found)
    await again.done(found)
    await again.close()
    last = await queue.opened()
    assert await last.take(10, 0.3) == []
    await last.close()


async def test_a_buried_message_is_on_the_other_queue_and_nowhere_else(queue: Queue) -> None:
    dead_letter = settings(queue.trigger()).dead_letter
    source = await queue.opened()
    await queue.put("bad", "good")
    bad, good = await take(source, 2)
    await source.bury(bad, dead_letter, "it failed 3 times")
    await source.done([good])
    assert await queue.dead() == ["bad"]
    await source.close()
    again = await queue.opened()
    assert await again.take(10, 0.3) == []
    await again.close()


async def test_lag_counts_what_waits_and_what_is_out(queue: Queue) -> None:
    source = await queue.opened(most=2)
    await queue.put("a", "b", "c", "d", "e")
    out = await take(source, 2)
    async with asyncio.timeout(20):
        while await source.lag() != (5 if queue.counts else len(out)):
            await asyncio.sleep(0.05)
    await source.done(out)
    await source.close()


async def test_a_server_that_is_not_there_is_said_so(queue: Queue) -> None:
    scheme, _, rest = queue.source.partition("://")
    where, _, path = rest.partition("/")
    user = f"{where.rpartition('@')[0]}@" if "@" in where else ""
    gone = queue._replace(source=f"{scheme}://{user}127.0.0.1:{free_port()}/{path}")
    source = gone.adapter()
    with pytest.raises(SourceError):
        await source.open(10)
    await source.close()


async def test_what_a_sender_says_of_tries_is_not_believed(rabbit_url: str) -> None:
    async with rabbit_queue(rabbit_url) as queue:
        connection = await aio_pika.connect(rabbit_url)
        channel, name = await connection.channel(), f"classic-{secrets.token_hex(4)}"
        await channel.declare_queue(name)
        sent = aio_pika.Message(b"a", headers={"x-delivery-count": "many"})
        await channel.default_exchange.publish(sent, routing_key=name)
        source = await queue._replace(source=f"{rabbit_url}/%2f/{name}").opened()
        assert [(message.body, message.tries) for message in await take(source, 1)] == [("a", 1)]
        await source.close()
        await connection.close()


def test_no_two_triggers_read_a_queue_as_one() -> None:
    said = ["default thumbs big-queue", "default thumbs-big queue", "thumbs big queue", "big thumbs queue"]
    assert len({group(TriggerId(*one.split())) for one in said}) == len(said)


# NATS and SQS themselves wait for 30 s before they believe that somebody is gone.
@pytest.mark.parametrize("queue", ["redis+stream", "redis+list", "topic", "amqp", "mqtt", "kafka"], indirect=True)
async def test_what_a_killed_process_held_comes_to_the_next_and_nothing_else(queue: Queue) -> None:
    first = await queue.opened()  # a subscription begins when it is first opened
    await first.close()
    await queue.put("a", "b", "c")
    trigger = queue.trigger()
    words = ["-m", "tests.triggers.holder", queue.source, json.dumps(dict(trigger.options, type=trigger.type)), "3"]
    holder = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert holder.stdout is not None
    async with asyncio.timeout(60):
        assert await holder.stdout.readline() == b"held\n"
        holder.kill()
        await holder.wait()
    await queue.put("d")
    source = await queue.opened()
    assert sorted(bodies(await take(source, 3))) == ["b", "c", "d"]
    assert await source.take(10, 0.3) == []
    await source.close()
