"""Draining one of two hosts: what has not begun goes to the other one, once, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from invoker.handover import choose, live
from invoker.sandbox import Exit, Reply
from jiffy.contract import keys, limits
from jiffy.contract.messages import Heartbeat

from .fakes import Answer, revision
from .onehost import OneHost

pytestmark = pytest.mark.redis
NARROW = revision(max_instances=2)


@pytest.fixture
async def other(redis_url: str, host: OneHost) -> AsyncIterator[OneHost]:
    """A second host beside `host`."""
    second = OneHost(redis_url, "inv-2")
    await second.start()
    await second.pulse.send()
    await host.pulse.send()
    yield second
    await second.stop()


class Held:
    """A function whose calls end when told."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Reply | Exit]] = []

    def __call__(self, payload: bytes) -> Answer:
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]

    async def running(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.calls) < count:
                await asyncio.sleep(0.005)

    def end(self) -> None:
        for call in self.calls:
            call.set_result(Reply(True, b'"here"', 50))


def there(payload: bytes) -> Answer:
    return Reply(True, b'"there"', 50)


async def test_running_calls_finish_here_and_waiting_ones_run_there(host: OneHost, other: OneHost) -> None:
    held = host.world.function = Held()
    other.world.function = there
    calls = [await host.send(NARROW) for _ in range(12)]
    await held.running(2)
    host.executor.drain(True)
    answers = [await host.answer() for _ in range(10)]
    assert {answer.payload for answer in answers} == {b'"there"'}
    held.end()
    answers += [await host.answer() for _ in range(2)]
    assert sorted(answer.invocation for answer in answers) == sorted(call.invocation for call in calls)
    assert all(answer.outcome == "ok" for answer in answers)
    usages = await host.usages()
    assert sorted(usage.invoker for usage in usages) == ["inv-1"] * 2 + ["inv-2"] * 10
    assert await host.redis.xlen(keys.calls("inv-1")) == 0


async def test_calls_that_still_come_are_handed_on_and_taken_again_afterwards(host: OneHost, other: OneHost) -> None:
    other.world.function = there
    host.executor.drain(True)
    await host.send()
    assert (await host.answer()).payload == b'"there"'
    host.executor.drain(False)
    await host.send()
    assert (await host.answer()).payload == b'{"n":1}'


async def test_an_asynchronous_call_is_still_found_where_it_waits(host: OneHost, other: OneHost) -> None:
    held = other.world.function = Held()
    host.executor.drain(True)
    await host.redis.hset(keys.backlog("default"), "call-1", "where it was")
    call = await host.send(mode="async", gateway="")
    await held.running(1)
    place = await host.redis.hget(keys.backlog("default"), call.invocation)
    assert place is not None and place.decode().startswith(keys.calls("inv-2") + " ")
    held.end()
    await host.record_when(call, "done")


async def test_alone_a_draining_host_runs_what_waits(host: OneHost) -> None:
    await host.pulse.send()
    host.executor.drain(True)
    await host.send()
    assert (await host.answer()).outcome == "ok"
    assert host.pulse.beat().draining, "gateways send no more"
    assert not await host.executor.hand_over(), "there is nobody"


async def test_the_order_comes_with_the_heartbeat(host: OneHost) -> None:
    await host.redis.sadd(keys.DRAINS, "inv-1")
    await host.pulse.send()
    assert host.pool.draining
    await host.redis.srem(keys.DRAINS, "inv-1")
    await host.pulse.send()
    assert not host.pool.draining


async def test_who_leaves_stays_on_its_way_out(host: OneHost, other: OneHost) -> None:
    assert await host.executor.hand_over()
    await host.pulse.send()  # nobody ordered it to drain
    assert host.pool.draining


def beat(invoker: str, **changes: object) -> Heartbeat:
    return Heartbeat(invoker, "host", 10_000, 0, "bwrap", False, 0, 0, 10, 9, {}, ())._replace(**changes)  # type: ignore[arg-type]


def test_who_is_asked() -> None:
    late = 10_000 + int(limits.SILENT_AFTER_S * 1000)
    all_of_them = [beat("me"), beat("old", at_ms=10_000 - 1), beat("going", draining=True), beat("free")]
    assert [one.invoker for one in live(all_of_them, "me", late)] == ["free"]
    assert choose([beat("a", running=4), beat("b", running=4, instances_max=100)], network=False) == "b"
    assert choose([beat("a"), beat("b", running=5, network=True)], network=True) == "b"
    assert choose([beat("a")], network=True) == ""
    assert choose([beat("a", store="one"), beat("b", running=5, store="two")], network=False, store="two") == "b"
    assert choose([beat("a", store="one")], network=False, store="two") == ""
