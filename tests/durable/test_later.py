"""Calls whose time has come while no host can run them: they wait, hold up nothing, and are not read in vain."""

from __future__ import annotations

import pytest

from gateway.durable.later import MOVE_MAX
from jiffy.contract import keys
from tests.durable.conftest import Pair

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
