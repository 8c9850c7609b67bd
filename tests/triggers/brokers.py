"""Real queues of other software, as others see them: where they are, how to put a message there, what is buried."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from redis.asyncio import Redis

from gateway.triggers.sources import doors
from gateway.triggers.sources.base import Source
from gateway.triggers.trigger import Trigger, TriggerId
from jiffy.contract import triggers
from tests import servers


class Queue(NamedTuple):
    """A queue on a real server: its address, and what others do with it."""

    source: str
    put: Callable[..., Awaitable[None]]
    dead: Callable[[], Awaitable[list[str]]]

    def trigger(self, **options: Any) -> Trigger:
        (table,) = triggers.check([{"type": "queue", "name": "q", "source": self.source} | options])
        return Trigger(TriggerId("default", "f", "q"), "queue", table)

    async def opened(self, most: int = 100, **options: Any) -> Source:
        source = doors.source(self.trigger(**options))
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
