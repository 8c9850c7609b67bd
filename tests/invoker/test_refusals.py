"""A queue that takes no writes for a while: what runs, ends and is answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from invoker.completions import REFUSED_TRIES
from invoker.sandbox import Exit, Reply
from jiffy.contract import outage
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Outcome
from tests import servers

from .fakes import beat
from .onehost import OneHost

pytestmark = pytest.mark.redis


async def refuse_writes(redis: Redis, how: Sequence[str]) -> None:
    await redis.config_resetstat()
    if how[0] == "replicaof":
        await redis.replicaof(*how[1].split())
    else:
        await redis.config_set(*how)


async def refusals(redis: Redis) -> int:
    stats: Any = await redis.info("errorstats")
    return sum(
        int(stat["count"]) for name, stat in stats.items() if name.removeprefix("errorstat_") in outage.TEMPORARY
    )


@pytest.mark.parametrize("no", [("min-replicas-to-write", "1"), ("replicaof", "127.0.0.1 1")], ids=" ".join)
async def test_a_server_that_takes_no_writes_for_a_while_loses_nothing_and_runs_nothing_twice(
    no: Sequence[str],
) -> None:
    with servers.valkey() as server:
        host = OneHost(server.url)
        await host.start()
        future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
        runs: list[bytes] = []

        def function(payload: bytes) -> Any:
            runs.append(payload)
            return future

        host.world.function = function
        call = await host.send()
        while not host.pool.running:
            await asyncio.sleep(0.001)
        await refuse_writes(host.redis, no)
        future.set_result(Reply(True, b"1", 1))
        for tries in (REFUSED_TRIES + 1, REFUSED_TRIES + 2):
            while await refusals(host.redis) < tries:
                await asyncio.sleep(0.005)
            with pytest.raises(Unavailable):  # after a failed heartbeat the invoker looks for what it has not seen
                await host.store.beat(beat())
        await host.redis.replicaof("NO", "ONE")
        await host.redis.config_set("min-replicas-to-write", "0")
        answer = await host.answer()
        assert (answer.invocation, answer.outcome, runs) == (call.invocation, Outcome.OK, [call.payload])
        host.world.function = lambda payload: Reply(True, payload, 1)
        await host.send()
        assert (await host.answer()).outcome == Outcome.OK, "the next call works"
        assert len(await host.usages()) == 2
        await host.stop()
        await host.redis.aclose()
