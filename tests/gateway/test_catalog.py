"""The catalog keeps up with what is deployed, told or not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.catalog import Catalog
from gateway.loops import Loops
from gateway.store import Store
from jiffy.contract import keys
from jiffy.contract.errors import NotFound
from jiffy.contract.routes import Match
from tests.gateway.fake_invoker import publish

pytestmark = pytest.mark.redis


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    found = Store(redis_url)
    yield found
    await found.close()


@pytest.fixture
def catalog(store: Store) -> Catalog:
    return Catalog(store)


def owner(catalog: Catalog, method: str, path: str) -> str:
    found = catalog.routes_of("default").find(method, path)
    return found.function if isinstance(found, Match) else ""


async def test_resync_finds_new_changed_and_removed_functions(redis_url: str, store: Store, catalog: Catalog) -> None:
    await publish(redis_url, "one", tell=False, routes=("GET /one",))
    await publish(redis_url, "two", tell=False)
    await catalog.resync()
    assert [f.name for f in catalog.all("default")] == ["one", "two"]
    await publish(redis_url, "one", number=2, tell=False, routes=("GET /uno",))
    await store.remove("default", "two")
    await catalog.resync()
    one = catalog.get("default", "one")
    assert one and one.revision.number == 2
    assert catalog.get("default", "two") is None
    assert (owner(catalog, "GET", "/uno"), owner(catalog, "GET", "/one")) == ("one", "")


@contextlib.asynccontextmanager
async def watched(catalog: Catalog) -> AsyncIterator[None]:
    loops = Loops(catalog.watch)  # it cancels again what redis-py swallowed (before Python 3.12)
    loops.start()
    try:
        yield
    finally:
        await loops.stop()


async def changed(catalog: Catalog, was: int) -> int:
    """The live number of hello (0: none) as soon as it is not `was`."""
    async with asyncio.timeout(10):
        while (now := number(catalog)) == was:
            await asyncio.sleep(0.005)
    return now


def number(catalog: Catalog) -> int:
    found = catalog.get("default", "hello")
    return found.revision.number if found else 0


async def test_a_change_is_followed_as_it_is_told(redis_url: str, catalog: Catalog) -> None:
    await publish(redis_url, "hello", tell=False)
    async with watched(catalog):
        assert await changed(catalog, was=0) == 1  # by the first resync
        await publish(redis_url, "hello", number=2)
        assert await changed(catalog, was=1) == 2


@pytest.mark.parametrize("lost", ["connection", "stream"])
async def test_what_nobody_told_is_made_up_for(redis_url: str, catalog: Catalog, lost: str) -> None:
    """Another server may have lost the stream, with changes in it."""
    async with watched(catalog), Redis.from_url(redis_url) as redis:
        await publish(redis_url, "hello")
        assert await changed(catalog, was=0) == 1
        await publish(redis_url, "hello", number=2, tell=False)
        if lost == "stream":
            await redis.delete(keys.CHANGES)
        else:
            await redis.client_kill_filter(_type="normal", skipme=True)
        assert await changed(catalog, was=1) == 2


async def test_all_functions_are_read_once_and_then_only_what_changed(redis_url: str, catalog: Catalog) -> None:
    async with watched(catalog), Redis.from_url(redis_url) as redis:
        await publish(redis_url, "hello")
        assert await changed(catalog, was=0) == 1
        before = await _scripts(redis)
        for n in range(2, 6):
            await publish(redis_url, "hello", number=n)
            assert await changed(catalog, was=n - 1) == n
        assert await _scripts(redis) - before == 4, "one look at each change"


async def _scripts(redis: Redis) -> int:
    found = await redis.info("commandstats")
    return int(found["cmdstat_evalsha"]["calls"])


async def test_an_unknown_function_is_looked_for_before_it_is_not_found(redis_url: str, catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        await catalog.find("default", "hello")
    await publish(redis_url, "hello", tell=False)
    assert (await catalog.find("default", "hello")).number == b"1"


async def test_a_removed_function_never_gets_a_number_twice(redis_url: str, store: Store, catalog: Catalog) -> None:
    await publish(redis_url, number=7)
    assert await store.remove("default", "hello")
    assert not await store.remove("default", "hello")
    async with Redis.from_url(redis_url) as redis:
        assert await redis.hgetall(keys.function("default", "hello")) == {b"latest": b"7", b"removed": b"7"}
        assert not await redis.exists(keys.functions("default"), keys.TENANTS)
    with pytest.raises(NotFound):
        await catalog.find("default", "hello")


async def test_a_route_passes_on_whatever_the_order_in_which_it_is_heard(redis_url: str, catalog: Catalog) -> None:
    await publish(redis_url, "old", tell=False, routes=("GET /x",))
    await catalog.resync()
    await publish(redis_url, "new", tell=False, routes=("GET /x",))
    await catalog.refresh("default", "new")
    assert owner(catalog, "GET", "/x") == "old", "who has it keeps it"
    await publish(redis_url, "old", number=2, tell=False, routes=())
    await catalog.refresh("default", "old")
    assert owner(catalog, "GET", "/x") == "new"


async def test_a_revision_that_cannot_be_read_leaves_the_one_in_service(redis_url: str, catalog: Catalog) -> None:
    await publish(redis_url, "hello", tell=False)
    await catalog.resync()
    async with Redis.from_url(redis_url) as redis:
        await redis.hset(keys.function("default", "hello"), mapping={"live": 2, "rev:2": b"rubbish"})
    await catalog.resync()
    kept = catalog.get("default", "hello")
    assert kept and kept.revision.number == 1


async def test_a_stated_revision_is_read_once(redis_url: str, store: Store, catalog: Catalog) -> None:
    await publish(redis_url, number=1)
    await publish(redis_url, number=2)
    assert (await catalog.pinned("default", "hello", 1)).revision.number == 1
    async with Redis.from_url(redis_url) as redis:
        await redis.hdel(keys.function("default", "hello"), "rev:1")
    assert (await catalog.pinned("default", "hello", 1)).revision.number == 1
    with pytest.raises(NotFound, match="2 is live"):
        await catalog.pinned("default", "hello", 9)
