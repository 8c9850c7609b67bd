"""What nobody needs goes, what anybody needs stays: against a real queue and real layers."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis.asyncio

from builder import image, retention
from builder.layers import LayerStore
from builder.retention import Pruned, prune
from builder.store import Store
from jiffy.contract import keys, layout, limits, wire
from jiffy.contract.messages import Call, FunctionStatus, Heartbeat, InvocationRecord, Layer, Revision, State

pytestmark = pytest.mark.redis
LATER_S = limits.UNUSED_KEEP_S + 1


class House:
    """A data folder and a queue, with revisions as a builder publishes them."""

    def __init__(self, url: str, data: Path) -> None:
        self.layers, self.store, self.redis = LayerStore(data), Store(url, "b"), redis.asyncio.Redis.from_url(url)
        self.data = data
        self.later_s = 0.0

    def layer(self, kind: str, text: str) -> Layer:
        with self.layers.staging() as folder:
            (folder / kind).mkdir()
            (folder / kind / "file").write_text(text)
            return self.layers.put(kind, folder / kind, kind).layer

    async def publish(self, number: int, name: str = "hello", base: Layer | None = None) -> Revision:
        layers = (base or self.layer("base", "base"), self.layer("code", f"{name} {number}"))
        stored = [self.layers.get(one.digest) for one in layers]
        settings = image.Image(f"{name} {number}", "", ("x",), {}, {})
        made = image.write(self.layers, settings, tuple(one for one in stored if one))
        revision = Revision(
            *("default", name, number, str(number), "python3.11", layers, "a:b", 128, 1000, 1, False, {}, (), 0, made)
        )
        function = keys.function("default", name)
        mapping = {keys.revision_field(number): wire.pack(revision), keys.sbom_field(number): b"x", "live": number}
        await self.redis.hset(function, mapping=mapping)
        await self.redis.sadd(keys.functions("default"), name)
        await self.redis.sadd(keys.TENANTS, "default")
        image.name(self.data, image.reference("default", name, number), made)
        return revision

    async def prune(self, later_s: float = 0.0, **options: object) -> Pruned:
        self.later_s += later_s
        return await prune(self.store, self.layers, lambda: time.time() + self.later_s, **options)  # type: ignore[arg-type]

    async def prune_surely(self) -> Pruned:
        """Two passes, between which nothing is needed for long enough."""
        await self.prune()
        return await self.prune(LATER_S)

    async def revisions(self, name: str = "hello") -> list[int]:
        return sorted((await self.store.revisions("default", name))[1])

    def there(self, layer: Layer) -> bool:
        return (layout.layer_tree(self.data, layer.digest) / "file").is_file() and bool(self.layers.get(layer.digest))

    async def beat(self, rows: tuple[FunctionStatus, ...] = (), bases: tuple[str, ...] = ()) -> None:
        plain = Heartbeat("inv", "host", 0, 0, "bwrap", False, 0, 0, 1, 1, {}, rows, bases=bases)
        await self.redis.hset(keys.INVOKERS, "inv", wire.pack(plain))


@pytest_asyncio.fixture
async def house(redis_url: str, data_dir: Path) -> AsyncIterator[House]:
    made = House(redis_url, data_dir)
    try:
        yield made
    finally:
        await made.store.close(leave=False)
        await made.redis.aclose()


async def test_the_live_revision_and_the_newest_stay(house: House) -> None:
    made = {number: await house.publish(number) for number in range(1, 8)}
    await house.redis.hset(keys.function("default", "hello"), "live", 2)
    told = await house.prune(keep=3, dry=True)
    assert told.revisions == tuple(f"default/hello:{number}" for number in (1, 3, 4))
    assert await house.revisions() == [*range(1, 8)]
    assert (await house.prune(keep=3)).revisions == told.revisions
    assert await house.revisions() == [2, 5, 6, 7]
    assert not await house.redis.hexists(keys.function("default", "hello"), keys.sbom_field(3))
    assert all(house.there(revision.layers[1]) for revision in made.values()), "for an hour"
    told = await house.prune(LATER_S, keep=3)
    assert (told.revisions, told.swept.layers, told.swept.images, told.swept.waiting) == ((), 3, 3, 0)
    assert told.swept.blobs == 3 * 3  # manifest, configuration, code
    for number, revision in made.items():
        assert house.there(revision.layers[1]) == (number in (2, 5, 6, 7))
        assert house.there(revision.layers[0])
    assert sorted(image.names(house.data)) == [f"default/hello:{number}" for number in (2, 5, 6, 7)]
    image.export(house.data, made[2].image, house.data / "whole.tar", "hello:2")
    assert (await house.prune(LATER_S, keep=3)).swept.bytes == 0


async def test_what_an_alias_names_stays(house: House) -> None:
    for number in range(1, 6):
        await house.publish(number)
    key = keys.function("default", "hello")
    await house.redis.hset(key, "aliases", "canary=3:10,0:90;prod=2:100")
    assert (await house.prune(keep=1)).revisions == ("default/hello:1", "default/hello:4")
    assert await house.store.trim("default", "hello", (2, 3)) == (), "nor is one that got its alias meanwhile"
    await house.redis.hset(key, "aliases", "")
    await house.prune(keep=1)
    assert await house.revisions() == [5]


async def test_what_a_call_or_a_sandbox_uses_stays(house: House) -> None:
    base = house.layer("base", "old")
    stem, unused = house.layer("base", "stem"), house.layer("base", "unused")
    made = {number: await house.publish(number, base=base) for number in range(1, 6)}
    removed = await house.publish(1, "gone")
    for invocation, revision in (("i1", made[1]), ("i2", removed)):
        call = Call(invocation, 1, "async", "", 0, 0, "http", wire.pack(revision), b"{}")
        record = InvocationRecord(invocation, "default", revision.function, 1, State.QUEUED, 0, 0, None)
        await house.redis.set(keys.invocation(invocation), wire.pack(record))
        where = "later" if invocation == "i1" else f"{keys.calls('inv')} 5-1"
        await house.redis.hset(keys.backlog("default"), invocation, where)
        if invocation == "i1":
            await house.redis.hset(keys.LATER_CALLS, invocation, wire.pack(call))
        else:
            await house.redis.xadd(keys.calls("inv"), {"c": wire.pack(call)}, id="5-1")
    await house.redis.delete(keys.function("default", "gone"))
    await house.redis.srem(keys.functions("default"), "gone")
    await house.beat((FunctionStatus("default", "hello", 2, 0, 1, 0, 0, 0, 0, 0),), (stem.digest,))
    await house.redis.hset(keys.bases(house.layers.id), "python3.11", wire.pack(house.layer("base", "usual")))
    await house.prune(keep=1)
    told = await house.prune(LATER_S, keep=1)
    assert await house.revisions() == [1, 2, 5]
    for layer in (base, stem, house.layer("base", "usual"), made[1].layers[1], made[2].layers[1], removed.layers[1]):
        assert house.there(layer)
    assert not any(house.there(layer) for layer in (unused, made[3].layers[1], made[4].layers[1]))
    assert told.swept.layers == 3


async def test_what_a_build_finds_meanwhile_stays(house: House) -> None:
    await house.publish(1)
    layer = house.layer("deps", "packages")
    folder = layout.layer(house.data, layer.digest)
    await house.prune(-LATER_S)  # more than an hour ago it was of no use already
    os.utime(folder, (0, 0))
    assert house.layers.get(layer.digest)
    assert (await house.prune(LATER_S)).swept.layers == 0
    assert house.there(layer)
    os.utime(folder, (0, 0))
    assert (await house.prune()).swept.layers == 1
    assert not house.there(layer)
    assert house.layer("deps", "packages") == layer
    assert house.there(layer), "and can be made again"


async def test_a_revision_that_went_live_meanwhile_stays(house: House) -> None:
    for number in (1, 2, 3):
        await house.publish(number)
    assert await house.store.trim("default", "hello", (3, 2, 9)) == (2,)
    assert await house.revisions() == [1, 3]


async def test_an_empty_queue_empties_no_folder(house: House) -> None:
    layer = house.layer("code", "x")
    assert (await house.prune_surely()).swept.layers == 0
    assert house.there(layer)


@pytest.mark.parametrize(
    ("live", "numbers", "used", "keep", "old"),
    [
        (3, (1, 2, 3), set(), 10, ()),
        (9, range(1, 10), set(), 3, (1, 2, 3, 4, 5, 6)),
        (1, range(1, 10), {4}, 1, (2, 3, 5, 6, 7, 8)),
        (0, (), set(), 1, ()),
    ],
)
def test_the_rule(live: int, numbers: range, used: set[int], keep: int, old: tuple[int, ...]) -> None:
    assert retention.outdated(live, numbers, used, keep) == old
