"""Another Redis behind the same address: nobody needs a restart, and what the new one lacks is made anew."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.loops import Loops
from jiffy import primary
from jiffy.contract import keys
from tests import servers
from tests.chaos.wire import Wire
from tests.durable.conftest import ENDED, Pair
from tests.gateway.conftest import Served, serving
from tests.invoker.onehost import OneHost

pytestmark = pytest.mark.redis


async def _accept(served: Served) -> httpx.Response:
    return await served.http.post("/v1/functions/hello/invocations?mode=async", json={})


async def test_a_failover_to_an_empty_primary_behind_one_address(tmp_path: Path, data_dir: Path) -> None:
    """The old primary lives on as a replica, as it does where nobody cuts its clients' connections."""
    with servers.valkey() as old, servers.valkey() as new:
        wire = Wire(tmp_path / "redis.sock", old.socket)
        await wire.start()
        host = OneHost(wire.url)
        await host.start()
        beating = Loops(host.pulse.run)
        beating.start()
        async with serving(wire.url, data_dir) as served:
            pair = Pair(served, host, old.url)
            host.url = old.url
            await host.pulse.send()
            await served.gateway.pulse.look()
            await pair.deploy()
            assert (await pair.end(await pair.call()))["state"] == "done"
            await pair.redis.replicaof("127.0.0.1", "1")
            wire.lead_to(new.socket)
            host.url = new.url
            await pair.redis.aclose()
            pair.redis = Redis.from_url(new.url, protocol=2)
            await pair.deploy()
            async with asyncio.timeout(30):
                while (await served.http.get("/function/hello")).status_code != 200:
                    await asyncio.sleep(0.1)
                while (accepted := await _accept(served)).status_code != 202:
                    assert accepted.status_code == 503, accepted.text
                    await asyncio.sleep(0.1)
            assert (await pair.end(accepted.json()["invocation"], *ENDED))["state"] == "done"
            assert await pair.redis.zscore(keys.STREAMS, "inv-1") is not None, "its calls would be taken over"
            async with asyncio.timeout(30):
                while (await served.http.get("/v1/audit")).status_code != 200:
                    await asyncio.sleep(0.1)  # the ledger is another one who learns of it
            await pair.redis.aclose()
        await beating.stop()
        await host.stop()
        await host.redis.aclose()
        await wire.close()


def test_a_connection_that_ends_between_two_words_is_a_lost_one(redis_url: str) -> None:
    """uvloop has a word of its own for it, which ended whole processes."""

    async def speak() -> None:
        client = primary.client(redis_url)
        connection: Any = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        connection._writer.transport.abort()  # as a server does that is killed
        await asyncio.sleep(0.01)
        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING")
        await connection.send_command("PING")
        assert await connection.read_response() == b"PONG", "it connects anew"
        await connection.disconnect()
        await client.aclose()

    uvloop.run(speak())
