"""What was to be answered by a gateway that died can be read by id."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from invoker.sandbox import Exit, Reply
from jiffy.contract import keys, wire
from jiffy.contract.messages import Usage
from tests.durable.conftest import Pair
from tests.gateway.conftest import serving

pytestmark = pytest.mark.redis


async def test_the_result_of_a_call_whose_gateway_died_is_kept(pair: Pair, redis_url: str, data_dir: Path) -> None:
    await pair.deploy()
    end: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()
    pair.host.world.function = lambda payload: begun.set() or end  # type: ignore[func-returns-value]
    async with serving(redis_url, data_dir, name="gw-2") as dead:
        await dead.gateway.pulse.look()
        lost = asyncio.ensure_future(dead.http.post("/v1/functions/hello/invocations", json={}))
        await begun.wait()
        await dead.gateway.loops.stop()  # as if it were dead: it neither says that it is there nor fetches answers
        name = dead.gateway.dispatcher.gateway
        end.set_result(Reply(True, b'"done"', 10))
        while not await pair.redis.exists(keys.answers(name)):
            await asyncio.sleep(0.01)
        [(_, fields)] = await pair.redis.xrange(keys.USAGE)
        invocation = wire.unpack(Usage, fields[b"u"]).invocation
        assert await pair.redis.zscore(keys.GATEWAYS, name) is not None
        while not await pair.redis.exists(keys.answer(invocation)):
            await pair.redis.zadd(keys.GATEWAYS, {name: 1})  # a minute passes
            await asyncio.sleep(0.01)
        lost.cancel()
    while (answer := await ask(pair, invocation)).status_code == 404:  # until the ledger has heard of the call
        await pair.served.gateway.ledger.settle_now()
    shown = answer.json()
    assert (shown["state"], shown["outcome"], shown["result"], shown["attempts"]) == ("done", "ok", "done", 1)


async def ask(pair: Pair, invocation: str) -> httpx.Response:
    return await pair.http.get(f"/v1/invocations/{invocation}")


async def test_a_gateway_that_is_there_keeps_its_answers(pair: Pair) -> None:
    await pair.redis.zadd(keys.GATEWAYS, {"gw-9": 2**50})
    await pair.redis.rpush(keys.answers("gw-9"), b"\x9a")
    await pair.served.gateway.durable._store.keep_orphans("gw-1", 10)
    assert await pair.redis.llen(keys.answers("gw-9")) == 1
