"""The shelf of stems: how many are started, when, and for whom, with twins of sandboxes."""

from __future__ import annotations

import asyncio

from invoker.stems import STARTS_AT_ONCE, kind_of

from .fakes import revision, settle
from .house import HELLO, House


async def test_a_dead_stem_is_replaced(house: House) -> None:
    house.stems.want(kind_of(HELLO))
    await settle(40)
    await house.world.sandboxes[0].close()
    await settle(40)
    assert house.stems.ready() == {"python3.11": 2}
    [caller] = await house.calls(1)
    assert caller.slot is not None


async def test_more_stems_stand_ready_while_cold_starts_come_often(house: House) -> None:
    house.pool.set_live("default", "hello", HELLO)
    await settle(40)
    house.start_s = 0.2
    for n in range(20):
        await house.calls(1, revision(f"f{n}"))
    [often] = house.stems.wanted().values()
    assert often > 2
    await settle(40 * often)
    assert house.stems.ready()["python3.11"] >= often - 1, "they are kept ahead"
    house.start_s = 0
    await house.tick(120)
    for _ in range(often):
        await house.tick(0)
    assert house.stems.ready() == house.stems.wanted() == {"python3.11": 2}, "and let go when they come no more"


async def test_stems_are_started_at_once_for_calls_that_wait_and_refilled_one_at_a_time(house: House) -> None:
    gate = asyncio.Event()
    house.world.starting = gate.wait
    for n in range(9):
        house.call(revision(f"f{n}"))
    await settle(40)
    assert house.world.starts == STARTS_AT_ONCE
    gate.set()
    await settle(200)
    assert house.world.starts == 9 + 2, "one for each call, then what is to stand ready"
    assert house.stems.ready() == house.stems.wanted() == {"python3.11": 2}
    gate.clear()
    house.stems.want(kind_of(HELLO)._replace(runtime="python3.12"))
    await settle(40)
    assert house.world.starts == 9 + 2 + 1, "one at a time, where nobody waits"
    gate.set()


async def test_a_tenant_whose_cold_starts_come_often_has_stems_of_its_own(house: House) -> None:
    house.world.breeds = True
    house.pool.set_live("default", "hello", HELLO)
    await settle(40)
    for n in range(8):
        await house.calls(1, revision(f"f{n}"))
        await settle(200)
    assert {box.tenant for box in house.world.sandboxes if box.revision is None} == {"", "default"}
    assert all(box.tenant in ("", box.revision.tenant) for box in house.world.sandboxes if box.revision)
    assert house.world.sandboxes[-1].tenant == "default", "what is taken is made anew for it"
    await house.calls(1, revision("other", tenant="other"))
    [theirs] = [box for box in house.world.sandboxes if box.revision and box.revision.tenant == "other"]
    assert theirs.tenant == "", "others find what is ready for anybody"
    await house.tick(120)
    for _ in range(8):
        await house.tick(0)
    assert house.stems.ready() == {"python3.11": 2}
    assert {box.tenant for box in house.world.sandboxes if not box.closed and box.revision is None} == {""}
