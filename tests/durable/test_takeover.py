"""What a silent invoker left goes to others, once; a paused one begins nothing and completes nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.durable.takeover import FRUITLESS_S, GAP_S, PAGE, Takeover
from gateway.durable.takeover_store import Left, Stream, Taken, TakeoverStore
from gateway.placement import Host, Placement
from invoker.sandbox import Exit, Reply
from jiffy.contract import keys, limits
from jiffy.contract.errors import JiffyError
from jiffy.contract.messages import Call, Outcome
from tests.invoker.fakes import Answer, revision
from tests.invoker.onehost import OneHost

pytestmark = pytest.mark.redis
NARROW = revision(max_instances=1)


@dataclass
class Gateway:
    """One gateway's takeover, on a clock that is turned by hand."""

    store: Any
    others: tuple[str, ...] = ("inv-2",)
    told: dict[str, JiffyError] = field(default_factory=dict)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self.placement = Placement()
        self.placement.update([Host(name, 100, 0, False) for name in self.others])
        self.takeover = Takeover(self.store, self.placement, self.told.__setitem__, lambda: self.now_s)

    async def look(self, seconds: float = limits.TAKEN_AFTER_S + 0.1, step_s: float = 0.5) -> None:
        """Look on, for so long."""
        await self.takeover.look()
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + step_s)
            await self.takeover.look()


class Held:
    """A function whose calls never end."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def __call__(self, payload: bytes) -> Answer:
        self.payloads.append(payload)
        future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
        return future


@pytest.fixture
async def host(redis_url: str) -> AsyncIterator[OneHost]:
    host = OneHost(redis_url)
    await host.start()
    await host.pulse.send()
    host.world.function = Held()
    yield host
    if not host.running.done():
        await host.stop()
    await host.redis.aclose()


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[OneHost]:
    other = OneHost(redis_url, "inv-2")
    await other.start()
    await other.pulse.send()
    other.world.function = lambda payload: Reply(True, b'"there"', 50)
    yield other
    await other.stop()
    await other.redis.aclose()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[TakeoverStore]:
    async with Redis.from_url(redis_url, protocol=2) as redis:
        yield TakeoverStore(redis)


async def running(host: OneHost, count: int) -> None:
    async with asyncio.timeout(10):
        while host.pool.running < count:
            await asyncio.sleep(0.005)


async def test_what_was_queued_runs_elsewhere(host: OneHost, other: OneHost, store: TakeoverStore) -> None:
    await host.crash()
    calls = [await host.send() for _ in range(300)]
    await Gateway(store).look()
    answers = [await host.answer() for _ in calls]
    assert sorted(answer.invocation for answer in answers) == sorted(call.invocation for call in calls)
    assert {answer.payload for answer in answers} == {b'"there"'}
    assert await host.redis.xlen(keys.calls("inv-1")) == 0


async def test_what_ran_has_failed_and_is_tried_again(host: OneHost, other: OneHost, store: TakeoverStore) -> None:
    sync = await host.send()
    later = await host.send(mode="async", gateway="")
    await running(host, 2)
    await host.crash()
    await Gateway(store).look()
    answer = await host.answer()
    assert (answer.invocation, answer.outcome, answer.billed_ms) == (sync.invocation, Outcome.PLATFORM, 0)
    assert b"inv-1 was lost" in answer.payload
    await host.record_when(later, "queued")
    due = await host.redis.hget(keys.LATER_CALLS, later.invocation)
    assert due is not None
    await host.redis.xadd(keys.calls("inv-2"), {"c": due})
    record = await host.record_when(later, "done")
    assert record.attempts == 2
    assert sorted((u.invocation, u.attempt, u.outcome, u.invoker, u.billed_ms) for u in await host.usages()) == [
        (sync.invocation, 1, "platform", "inv-1", 0),
        (later.invocation, 1, "platform", "inv-1", 0),
        (later.invocation, 2, "ok", "inv-2", 100),
    ]


async def test_a_paused_invoker_lets_go_what_others_were_given(
    host: OneHost, other: OneHost, store: TakeoverStore
) -> None:
    held = host.world.function
    assert isinstance(held, Held)
    calls = [await host.send(NARROW, payload=b"%d" % n) for n in range(3)]  # one runs, two wait on the host
    await running(host, 1)
    host.slept_ns += int((limits.HELD_S + 1) * 1e9)
    await Gateway(store).look()
    answers = [await host.answer() for _ in calls]
    assert {answer.outcome for answer in answers} == {Outcome.PLATFORM}
    [sandbox] = host.world.used
    [instance] = sandbox.instances
    assert instance.future is not None
    await host.pulse.send()
    await asyncio.wait_for(asyncio.shield(instance.future), 10)
    assert instance.closed, "the call that it ran was killed"
    await other.pulse.send()
    again = await host.send(NARROW, payload=b"new")
    await running(host, 1)
    assert held.payloads == [b"0", b"new"], "what waited there did not begin"
    assert len(await host.usages()) == 3 and await host.redis.llen(keys.answers("gw")) == 0
    assert again.invocation not in {usage.invocation for usage in await host.usages()}


async def test_what_is_still_its_own_begins_once_heartbeats_arrive(host: OneHost) -> None:
    held = host.world.function
    assert isinstance(held, Held)
    host.slept_ns += int((limits.HELD_S + 1) * 1e9)
    await host.send(payload=b"1")
    async with asyncio.timeout(10):
        while not host.pool.totals.calls:
            await asyncio.sleep(0.005)
    host.pool.tick()
    assert host.pool.running == 0 and host.world.used == []
    await host.pulse.send()
    await running(host, 1)
    assert held.payloads == [b"1"]


class Hesitant:
    """A gateway that hesitates before its step, while something happens."""

    def __init__(self, store: TakeoverStore, meanwhile: Any) -> None:
        self._store = store
        self._meanwhile = meanwhile

    async def streams(self) -> list[Stream]:
        return await self._store.streams()

    async def left(self, invoker: str, after: str, count: int) -> list[Left]:
        return await self._store.left(invoker, after, count)

    async def take_over(self, silent: Stream, batch: list[Taken]) -> bool:
        await self._meanwhile()
        return await self._store.take_over(silent, batch)


async def test_who_is_heard_of_again_keeps_its_calls(host: OneHost, other: OneHost, store: TakeoverStore) -> None:
    await host.send()
    await running(host, 1)
    await Gateway(Hesitant(store, host.pulse.send)).look()
    assert host.pool.running == 1 and len(await store.left("inv-1", "", 10)) == 1
    assert await host.redis.xlen(keys.calls("inv-2")) == 0


async def test_any_number_of_gateways_takes_each_call_once(host: OneHost, other: OneHost, store: TakeoverStore) -> None:
    await host.crash()
    calls = [await host.send() for _ in range(50)]
    gateways = [Gateway(store) for _ in range(3)]
    first = gateways[0]

    async def others() -> None:
        for gateway in gateways[1:]:
            await gateway.look()

    late = Gateway(Hesitant(store, others))
    await late.look()
    await first.look()
    assert sorted([(await host.answer()).invocation for _ in calls]) == sorted(call.invocation for call in calls)
    assert await host.redis.llen(keys.answers("gw")) == 0 and len(await host.usages()) == len(calls)


async def test_a_gateway_that_was_away_takes_nothing(host: OneHost, other: OneHost, store: TakeoverStore) -> None:
    await host.send()
    await running(host, 1)
    gateway = Gateway(store)
    await gateway.look(seconds=10 * GAP_S, step_s=GAP_S + 0.1)
    assert len(await store.left("inv-1", "", 10)) == 1
    await gateway.look()
    assert await store.left("inv-1", "", 10) == []


async def test_where_nobody_is_left_callers_are_told_and_the_next_host_takes_over(
    host: OneHost, store: TakeoverStore, redis_url: str
) -> None:
    ran = await host.send()
    await running(host, 1)
    await host.crash()
    queued: Call = await host.send()
    gateway = Gateway(store, others=())
    await gateway.look()
    assert list(gateway.told) == [ran.invocation] and gateway.told[ran.invocation].status == 502
    assert await host.redis.xlen(keys.calls("inv-1")) == 2, "nothing is lost"
    other = OneHost(redis_url, "inv-2")
    await other.start()
    await Gateway(store).look()
    answers = [await host.answer(), await host.answer()]
    assert {a.invocation: a.outcome for a in answers} == {ran.invocation: "platform", queued.invocation: "ok"}
    await other.stop()
    await other.redis.aclose()


async def test_streams_of_hosts_that_are_long_gone_are_forgotten(host: OneHost, store: TakeoverStore) -> None:
    await host.redis.zadd(keys.STREAMS, {"old": 1, "left": 1})
    await host.redis.xadd(keys.calls("left"), {"c": b"?"})
    await host.redis.xgroup_create(keys.calls("old"), keys.GROUP, mkstream=True)
    await store.streams()
    assert sorted(one.invoker for one in await store.streams()) == ["inv-1", "left"]
    assert not await host.redis.exists(keys.calls("old"))


class Counted:
    """Counts the pages that are read of what a silent invoker left."""

    def __init__(self, store: TakeoverStore) -> None:
        self._store = store
        self.pages = 0

    async def streams(self) -> list[Stream]:
        return await self._store.streams()

    async def left(self, invoker: str, after: str, count: int) -> list[Left]:
        self.pages += 1
        return await self._store.left(invoker, after, count)

    async def take_over(self, silent: Stream, batch: Sequence[Taken]) -> bool:
        return await self._store.take_over(silent, batch)


async def test_what_has_nowhere_to_go_is_not_read_again_with_every_look(host: OneHost, store: TakeoverStore) -> None:
    await host.send()
    await running(host, 1)
    await host.crash()
    for _ in range(2 * PAGE):
        await host.send()
    counted = Counted(store)
    gateway = Gateway(counted, others=())
    await gateway.look()
    await gateway.look(seconds=FRUITLESS_S - 1, step_s=0.25)
    assert counted.pages == 2, "one with what it had been given, and the next"
    gateway.placement.update([Host("inv-2", 1000, 0, False)])
    await gateway.look(seconds=0.25)
    assert await store.left("inv-1", "", 10) == []
