"""Calls whose time has come while no host can run them: they wait, hold up nothing, and are not read in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.durable.later import MOVE_MAX
from jiffy.contract import keys, wire
from tests.durable.conftest import Pair, beating
from tests.gateway.conftest import serving
from tests.gateway.fake_invoker import heartbeat
from tests.invoker.onehost import OneHost

pytestmark = pytest.mark.redis


async def test_what_no_host_can_run_holds_up_nothing_and_is_not_read_with_every_look(pair: Pair) -> None:
    gateway = pair.served.gateway
    await pair.deploy()
    invocation = await pair.call(delay="3600")
    await gateway.durable.later.look()
    step = pair.redis.pipeline(transaction=True)  # what has a moment and no call is taken out by whoever looks
    step.zadd(keys.LATER, {invocation: 2} | {f"lost-{n}": 1 for n in range(MOVE_MAX)})
    step.hset(keys.LATER_CALLS, mapping={f"lost-{n}": b"another release's" for n in range(MOVE_MAX)})
    await step.execute()
    await pair.end(invocation)
    assert await pair.redis.zcard(keys.LATER) == await pair.redis.hlen(keys.LATER_CALLS) == MOVE_MAX, "they wait"
    assert await pair.redis.zcount(keys.LATER, 0, 1) == 0, "and are looked at again later"


async def test_what_comes_while_all_hosts_drain_waits_for_one(redis_url: str, data_dir: Path) -> None:
    host = OneHost(redis_url)
    await host.start()
    async with serving(redis_url, data_dir) as served:
        pair = Pair(served, host, redis_url)
        seconds, micros = await pair.redis.time()
        beat = heartbeat("inv-1", seconds * 1000 + micros // 1000, draining=True)
        await pair.redis.hset(keys.INVOKERS, "inv-1", wire.pack(beat))
        await served.gateway.pulse.look()
        await pair.deploy()
        refused = await pair.http.post("/v1/functions/hello/invocations", json={})
        assert refused.status_code == 503, "who waits for an answer hears that none will come"
        invocation = await pair.call()
        assert (await pair.show(invocation))["state"] == "queued"
        async with beating(pair.redis):
            await pair.end(invocation, "done")
        await pair.redis.aclose()
    await host.stop()
    await host.redis.aclose()
