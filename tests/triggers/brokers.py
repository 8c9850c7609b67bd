"""Real queues of other software, as others see them: where they are, how to put a message there, what is buried."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import nats
import paho.mqtt.client as mqtt
from aiobotocore.session import get_session
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from paho.mqtt.enums import CallbackAPIVersion
from redis.asyncio import Redis

from gateway.triggers.sources.base import Source
from gateway.triggers.sources.doors import Doors
from gateway.triggers.topic_store import TopicStore
from gateway.triggers.trigger import Trigger, TriggerId
from jiffy.contract import keys, triggers
from tests import servers


class Queue(NamedTuple):
    """A queue on a real server: its address, and what others do with it."""

    source: str
    put: Callable[..., Awaitable[None]]
    dead: Callable[[], Awaitable[list[str]]]
    counts: bool = True  # does the server tell how many messages wait?
    topic: str = ""  # then `source` is where the platform's topics are

    def trigger(self, **options: Any) -> Trigger:
        place = {"type": "topic", "topic": self.topic} if self.topic else {"type": "queue", "source": self.source}
        (table,) = triggers.check([{"name": "q"} | place | options])
        return Trigger(TriggerId("default", "f", "q"), table["type"], table)

    def adapter(self, **options: Any) -> Source:
        return Doors(self.source).source(self.trigger(**options))

    async def opened(self, most: int = 100) -> Source:
        source = self.adapter()
        await source.open(most)
        return source


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def tcp(server: servers.RedisServer) -> int:
    """The port at which the session's server answers too."""
    async with Redis.from_url(server.url, protocol=2) as redis:
        port = int((await redis.config_get("port"))["port"])
        if not port:
            port = free_port()
            await redis.config_set("port", port)
        return port


@contextlib.asynccontextmanager
async def redis_queue(kind: str, server: servers.RedisServer) -> AsyncIterator[Queue]:
    """`kind`: redis+stream or redis+list."""
    async with Redis.from_url(server.url, protocol=2, decode_responses=True) as redis:

        async def put(*bodies: str) -> None:
            pipe = redis.pipeline()
            for body in bodies:
                pipe.xadd("in", {"body": body}) if kind == "redis+stream" else pipe.rpush("in", body)
            await pipe.execute()

        async def dead() -> list[str]:
            if kind == "redis+stream":
                return [fields["body"] for _, fields in await redis.xrange("in:dead")]
            return list(await redis.lrange("in:dead", 0, -1))

        yield Queue(f"{kind}://127.0.0.1:{await tcp(server)}/0/in", put, dead)


@contextlib.asynccontextmanager
async def topic_queue(server: servers.RedisServer) -> AsyncIterator[Queue]:
    """A topic of the platform's own."""
    async with Redis.from_url(server.url, protocol=2) as redis:
        port, name = await tcp(server), "orders.in"

        async def put(*bodies: str) -> None:
            await TopicStore(redis).publish(
                "default", name, [body.encode() for body in bodies], 3600, int(time.time() * 1000)
            )

        async def dead() -> list[str]:
            return [fields[b"e"].decode() for _, fields in await redis.xrange(keys.topic("default", "dead.f.q"))]

        yield Queue(f"redis://127.0.0.1:{port}/0", put, dead, topic="orders.*")


@contextlib.asynccontextmanager
async def nats_queue(url: str) -> AsyncIterator[Queue]:
    """A stream of its own on the server at `url`."""
    client = await nats.connect(url)
    js = client.jetstream()
    name = f"S{secrets.token_hex(4)}"
    await js.add_stream(name=name, subjects=[f"{name}.in"])

    async def put(*bodies: str) -> None:
        for body in bodies:
            await js.publish(f"{name}.in", body.encode())

    async def dead() -> list[str]:
        found = await js.subscribe(f"{name}.in.dead", ordered_consumer=True)
        messages = []
        with contextlib.suppress(nats.errors.TimeoutError):
            while True:
                messages.append((await found.next_msg(timeout=0.5)).data.decode())
        return messages

    try:
        yield Queue(f"{url}/{name}/{name}.in", put, dead)
    finally:
        await js.delete_stream(name)
        await js.delete_stream("jiffy-f--q-dead") if await _has(js, "jiffy-f--q-dead") else None
        await client.close()


async def _has(js: Any, name: str) -> bool:
    return any(info.config.name == name for info in await js.streams_info())


@contextlib.asynccontextmanager
async def rabbit_queue(url: str) -> AsyncIterator[Queue]:
    """A queue that the adapter makes, on the broker at `url`."""
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    name = f"q-{secrets.token_hex(4)}"
    await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})

    async def put(*bodies: str) -> None:
        for body in bodies:
            await channel.default_exchange.publish(aio_pika.Message(body.encode()), routing_key=name)

    async def dead() -> list[str]:
        queue = await channel.get_queue(f"{name}.dead")
        messages = []
        while (message := await queue.get(fail=False, no_ack=True)) is not None:
            messages.append(message.body.decode())
        return messages

    try:
        yield Queue(f"{url}/%2f/{name}", put, dead)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def sqs_queue(url: str) -> AsyncIterator[Queue]:
    """A queue of its own on the server at `url`."""
    name = f"q-{secrets.token_hex(4)}"
    async with amazon("sqs", url) as client:
        queue = (await client.create_queue(QueueName=name))["QueueUrl"]

        async def put(*bodies: str) -> None:
            for body in bodies:
                await client.send_message(QueueUrl=queue, MessageBody=body)

        async def dead() -> list[str]:
            where = (await client.get_queue_url(QueueName=f"{name}-dead"))["QueueUrl"]
            answer = await client.receive_message(QueueUrl=where, MessageAttributeNames=["All"])
            return [message["Body"] for message in answer.get("Messages", [])]

        yield Queue(f"sqs+http://key:secret@{url.partition('://')[2]}/{ACCOUNT}/{name}", put, dead)


ACCOUNT = "123456789012"  # moto's


def amazon(service: str, url: str) -> Any:
    """A client as others have one."""
    return get_session().create_client(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


@contextlib.contextmanager
def amazon_server() -> Iterator[str]:
    """A server that speaks as SQS and S3 do; its URL."""
    port = free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def kafka_queue(server: str) -> AsyncIterator[Queue]:
    """A topic of its own on the server at host:port."""
    name = f"q.{secrets.token_hex(4)}"
    async with AIOKafkaProducer(bootstrap_servers=server) as producer:
        await producer.partitions_for(name)  # which makes it

        async def put(*bodies: str) -> None:
            for body in bodies:
                await producer.send_and_wait(name, body.encode(), partition=0)

        async def dead() -> list[str]:
            async with AIOKafkaConsumer(
                f"{name}.dead", bootstrap_servers=server, auto_offset_reset="earliest"
            ) as consumer:
                return [(await consumer.getone()).value.decode()]

        yield Queue(f"kafka://{server}/{name}", put, dead)


@contextlib.contextmanager
def kafka_server() -> Iterator[str]:
    """librdkafka's mock of a cluster; its host:port."""
    command = [sys.executable, "-m", "tests.triggers.mock_kafka"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def mqtt_queue(port: int) -> AsyncIterator[Queue]:
    """A topic of its own on the broker at `port`; its dead letters are gathered from now on."""
    name, buried = f"q/{secrets.token_hex(4)}", asyncio.Queue[str]()
    loop, subscribed = asyncio.get_running_loop(), asyncio.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = lambda _c, _u, m: loop.call_soon_threadsafe(buried.put_nowait, m.payload.decode())
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(subscribed.set)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(f"{name}/dead", qos=1)
    await subscribed.wait()

    async def put(*bodies: str) -> None:
        for body in bodies:
            told = client.publish(name, body, qos=1)
            await asyncio.to_thread(told.wait_for_publish, 20)

    async def dead() -> list[str]:
        async with asyncio.timeout(20):
            found = [await buried.get()]
        while not buried.empty():
            found.append(buried.get_nowait())
        return found

    try:
        yield Queue(f"mqtt://127.0.0.1:{port}/{name}", put, dead, counts=False)
    finally:
        client.disconnect()
        client.loop_stop()


@contextlib.contextmanager
def mqtt_broker() -> Iterator[int]:
    """A mosquitto for whoever comes; its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="jiffy-test-mqtt-") as folder:
        (Path(folder) / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        with _running([MOSQUITTO, "-c", f"{folder}/conf"], port):
            yield port


@contextlib.asynccontextmanager
async def hostile_mqtt(topic: bytes, count: int) -> AsyncIterator[str]:
    """A broker that sends `count` messages at once to who subscribes, whatever it was asked for; their address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = await reader.readexactly(2)  # no packet of ours is longer than 127 bytes
                packet = await reader.readexactly(length)
                if kind >> 4 == 1:
                    writer.write(bytes([0x20, 3, 0, 0, 0]))
                elif kind >> 4 == 8:
                    writer.write(bytes([0x90, 4, *packet[:2], 0, 1]))
                    for number in range(1, count + 1):
                        body = len(topic).to_bytes(2) + topic + number.to_bytes(2) + b"\0" + b"%d" % number
                        writer.write(bytes([0x32, len(body)]) + body)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}/in"


@contextlib.contextmanager
def nats_server() -> Iterator[str]:
    """A NATS server with JetStream; its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="jiffy-test-nats-") as folder:
        command = ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder, "-l", f"{folder}/log"]
        with _running(command, port):
            yield f"nats://127.0.0.1:{port}"


MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@contextlib.contextmanager
def rabbit_server() -> Iterator[str]:
    """A RabbitMQ broker with its own Erlang port mapper; its URL."""
    port, dist, epmd = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="jiffy-test-rabbit-") as folder:
        (Path(folder) / "plugins").write_text("[].")
        env = os.environ | {
            "HOME": folder,
            "RABBITMQ_NODENAME": f"jiffy{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        try:
            with _running([str(RABBITMQ)], port, env):
                yield f"amqp://guest:guest@127.0.0.1:{port}"
        finally:
            subprocess.run(["epmd", "-port", str(epmd), "-kill"], env=env, capture_output=True)


@contextlib.contextmanager
def _running(command: list[str], port: int, env: dict[str, str] | None = None) -> Iterator[None]:
    """A server, from when it listens to when it and all that it started have ended."""
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        give_up = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < give_up, f"{command[0]} did not start"
            time.sleep(0.05)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
