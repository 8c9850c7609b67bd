"""A real gateway and a real invoker over one queue; only the sandboxes are twins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger.lines import Attempt
from gateway.loops import Loops
from invoker.sandbox import Reply
from jiffy import primary
from jiffy.contract import keys, wire
from tests.gateway.conftest import Served, serving
from tests.gateway.fake_invoker import heartbeat, publish
from tests.invoker.fakes import BASE
from tests.invoker.onehost import OneHost

FAILED = Reply(False, b'{"errorType":"ValueError","errorMessage":"no"}', 10)
ENDED = ("done", "dead", "cancelled")


class Pair:
    """A gateway, `http` to it, and an invoker; `host.world.function` is what functions do."""

    def __init__(self, served: Served, host: OneHost, url: str) -> None:
        self.served = served
        self.host = host
        self.http: httpx.AsyncClient = served.http
        self.redis: Any = primary.client(url)

    async def deploy(self, name: str = "hello", number: int = 1, **spec: Any) -> None:
        """A function whose first retry is due at once, unless `spec` says otherwise."""
        await publish(self.host.url, name, number, layers=(BASE, BASE), spec={"backoff_s": 0.0} | spec)
        await self.served.gateway.catalog.refresh("default", name)

    async def call(self, name: str = "hello", event: Any = None, **query: Any) -> str:
        """The id of an accepted asynchronous call."""
        path = f"/v1/functions/{name}/invocations"
        answer = await self.http.post(path, params={"mode": "async"} | query, json=event or {})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["invocation"])

    async def show(self, invocation: str) -> dict[str, Any]:
        answer = await self.http.get(f"/v1/invocations/{invocation}")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def end(self, invocation: str, *states: str) -> dict[str, Any]:
        """Its record once it is in one of these states; in any end, where none is given."""
        async with asyncio.timeout(15):
            while (record := await self.show(invocation))["state"] not in (states or ENDED):
                await asyncio.sleep(0.01)  # a record that is set tells nobody
        return record

    async def attempts(self, invocation: str) -> list[Attempt]:
        """What the ledger says of them."""
        return await self.served.gateway.ledger.invocation(invocation)

    async def tally(self) -> dict[str, int]:
        found = await self.redis.hgetall(keys.tally("default"))
        return {name.decode(): int(value) for name, value in found.items()}

    async def backlog(self) -> int:
        return int(await self.redis.hlen(keys.backlog("default")))


@contextlib.asynccontextmanager
async def beating(redis: Any, name: str = "inv-1") -> AsyncIterator[None]:
    """An invoker's heartbeats."""

    async def beat() -> None:
        seconds, micros = await redis.time()
        await redis.hset(keys.INVOKERS, name, wire.pack(heartbeat(name, seconds * 1000 + micros // 1000)))

    async def beats() -> None:
        while True:
            await beat()
            await asyncio.sleep(0.5)

    await beat()
    loops = Loops(beats)
    loops.start()
    yield
    await loops.stop()


@contextlib.asynccontextmanager
async def joined(url: str, data: Path) -> AsyncIterator[Pair]:
    """Both over one queue, which may fail over: the invoker beats by itself, and notices."""
    host = OneHost(url)
    await host.start()
    beats = Loops(host.pulse.run)
    beats.start()
    await host.pulse.send()
    async with serving(url, data) as served:
        pair = Pair(served, host, url)
        await served.gateway.pulse.look()
        yield pair
        await pair.redis.aclose()
    await beats.stop()
    await host.stop()
    await host.redis.aclose()


@pytest.fixture
async def pair(redis_url: str, data_dir: Path) -> AsyncIterator[Pair]:
    host = OneHost(redis_url)
    await host.start()
    async with serving(redis_url, data_dir) as served:
        pair = Pair(served, host, redis_url)
        async with beating(pair.redis):
            await served.gateway.pulse.look()
            yield pair
        await pair.redis.aclose()
    await host.stop()
    await host.redis.aclose()
