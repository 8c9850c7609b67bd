"""What is kept ready is counted while it is there, per minute, and written exactly once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from invoker.provisioning import Provisioning
from invoker.store import Store
from jiffy.contract import keys
from jiffy.contract.clock import Clock
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Provision
from jiffy.contract.wire import unpack

from .fakes import revision, settle
from .house import House

KEPT = revision("kept", min_instances=2, memory_mb=256, spec={"tags": {"team": "shop"}})
NOON_MS = 1_793_534_400_000


class Written:
    """Where records go; `away`: Redis takes a batch and its answer is lost."""

    def __init__(self) -> None:
        self.records: list[Provision] = []
        self.last = 0
        self.away = False

    async def provision(self, process: str, number: int, batch: Sequence[Provision]) -> None:
        if number > self.last:
            self.records += batch
            self.last = number
        if self.away:
            raise Unavailable("the connection was lost")


class Watched:
    """A house whose provisioned capacity is looked at, from noon on."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.written = Written()
        clock = Clock(lambda: house.clock.us * 1000)
        clock.set(NOON_MS * 1000, house.clock.us * 1000, house.clock.us * 1000)
        self.counting = Provisioning(self.written, "inv-1", clock, house.pool.kept)

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds * 4):
            self.house.clock.pass_s(0.25)
            self.counting.look()

    async def records(self) -> list[Provision]:
        await self.counting.send()
        return self.written.records


@pytest.fixture
async def watched(house: House) -> Watched:
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    return Watched(house)


async def test_a_minute_of_instances_kept_ready_is_one_record(watched: Watched) -> None:
    watched.counting.look()
    watched.pass_s(10)
    [call] = await watched.house.calls(1, KEPT)
    watched.pass_s(20)
    call.end()
    watched.pass_s(30)
    [record] = await watched.records()
    assert record[1:] == (
        *("default", "kept", 1, "inv-1", NOON_MS, 2 * 60_000, 2 * 60_000 - 20_000),
        *(256, "python3.11", "team=shop"),
    )


async def test_what_sleeps_is_kept_ready_and_what_is_beyond_is_not(watched: Watched) -> None:
    callers = await watched.house.calls(5, KEPT)
    watched.counting.look()
    watched.pass_s(1)
    for caller in callers:
        caller.end()
    watched.pass_s(29)
    watched.house.pool.tick()
    await settle()
    assert watched.house.world.used[0].frozen
    watched.pass_s(30)
    [record] = await watched.records()
    assert record.provisioned_ms == 2 * 60_000
    assert record.idle_ms == 2 * 59_000, "while five calls ran, neither was idle"


async def test_what_could_not_be_started_or_is_no_longer_kept_is_not_counted(house: House) -> None:
    house.world.loading = house.world.loading._replace(error=b'{"errorType": "Runtime.ImportModuleError"}')
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    watched = Watched(house)
    watched.pass_s(90)
    assert await watched.records() == []
    house.world.loading = house.world.loading._replace(error=None)
    await house.tick(1000)
    watched.pass_s(5)
    house.pool.set_live("default", "kept", None)
    watched.pass_s(300)
    counted_ms = sum(record.provisioned_ms for record in await watched.records())
    assert 2 * 4_750 <= counted_ms <= 2 * 7_000, "five seconds, and of those before at most what a look may miss"


async def test_an_answer_that_is_lost_doubles_nothing_and_loses_nothing(watched: Watched) -> None:
    watched.counting.look()
    watched.written.away = True
    for _ in range(3):
        watched.pass_s(60)
        with pytest.raises(Unavailable):
            await watched.counting.send()
    watched.written.away = False
    watched.pass_s(30)
    await watched.counting.finish()
    minutes = [(record.started_ms - NOON_MS) // 60_000 for record in watched.written.records]
    assert minutes == [0, 1, 2, 3]
    assert sum(record.provisioned_ms for record in watched.written.records) == 2 * 210_000
    assert len({record.id for record in watched.written.records}) == 4


@pytest.mark.redis
async def test_redis_takes_a_batch_once(redis_url: str) -> None:
    store = Store(redis_url, "inv-1", Clock())
    record = Provision("i", "t", "f", 1, "inv-1", NOON_MS, 1, 1, 128, "python3.11", "")
    async with Redis.from_url(redis_url) as redis:
        for number in (1, 1, 2, 2, 1):
            await store.provision("process", number, [record, record])
        await store.provision("another", 1, [record])
        entries = await redis.xrange(keys.USAGE)
        assert [unpack(Provision, fields[b"p"]) for _, fields in entries] == [record] * 5
        assert await redis.get(keys.METERED) == b"5", "as the audit counts them"
    await store.close()
