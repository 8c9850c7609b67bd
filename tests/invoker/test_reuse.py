"""How long an instance serves: min_instances, reuse = "never", max_requests, and the switch of a revision."""

from __future__ import annotations

import pytest

from invoker import policy
from jiffy.contract.messages import Outcome

from .fakes import revision, settle
from .house import House

KEPT = revision("kept", min_instances=3)
ONCE = revision("once", calls_max=1)


async def test_what_is_kept_ready_leaves_room_for_others(house: House) -> None:
    house.pool.set_live("default", "kept", revision("kept", min_instances=1000, max_instances=1000))
    await house.tick(60)
    assert house.pool.room.instances == 37, "of 50"
    callers = await house.calls(5, revision("other"))
    assert all(caller.slot for caller in callers)


async def test_min_instances_are_there_before_the_first_call_and_stay(house: House) -> None:
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    assert house.world.alive == 3
    first = house.call(KEPT)
    assert first.slot is not None and not first.cold, "at once"
    first.end()
    await house.tick(3_600)
    assert house.world.alive == 3, "no keep-alive ends them"
    [sandbox] = house.world.used
    assert sandbox.frozen, "idle ones cost no processor"
    callers = await house.calls(3, KEPT)
    assert all(caller.slot and not caller.cold for caller in callers)


async def test_min_instances_that_fill_many_sandboxes_come_while_full_ones_sleep(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "INSTANCES_PER_SANDBOX", 2)
    house.pool.set_live("default", "kept", revision("kept", min_instances=9))
    for _ in range(5):
        await house.tick(0.3)  # what has room for no more falls asleep meanwhile
    [row] = house.pool.statuses()
    assert row.idle + row.frozen == 9 and len(house.world.used) == 5
    assert house.pool.figures.decisions["thaw"] == 0, "what has no room is not woken for it"


async def test_what_is_beyond_min_instances_goes_as_ever(house: House) -> None:
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    for caller in await house.calls(5, KEPT):
        caller.end()
    assert house.world.alive == 5
    await house.tick(61)
    assert house.world.alive == 3


async def test_a_kept_instance_that_dies_is_replaced(house: House) -> None:
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    house.world.used[0].instances[0].die()
    await house.tick(1)
    assert house.world.alive == 3
    await house.world.used[0].close()
    await house.tick(1)
    assert house.world.alive == 3


async def test_kept_instances_make_no_room_for_others(house: House) -> None:
    house.pool.room.instances_max = 4
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    [served, caller] = await house.calls(2)
    house.clock.pass_s(11)
    house.pool.tick()
    assert served.slot and caller.refusal is not None and caller.refusal.outcome is Outcome.THROTTLED
    assert house.world.alive == 4


async def test_min_instances_that_cannot_be_had_are_tried_less_and_less_often(house: House) -> None:
    house.world.loading = house.world.loading._replace(error=b'{"errorType": "Runtime.ImportModuleError"}')
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    tried = [len(house.world.sandboxes)]
    for _ in range(3):
        await house.tick(policy.BACKOFF_MIN_S / 2)
        tried.append(len(house.world.sandboxes))
    assert tried[-1] <= tried[0] + 2
    house.world.loading = house.world.loading._replace(error=None)
    await house.tick(policy.BACKOFF_MAX_S)
    assert house.world.alive == 3, "and it mends by itself"


async def test_a_removed_function_is_no_longer_kept(house: House) -> None:
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    house.pool.set_live("default", "kept", None)
    await house.tick(3)
    assert not house.world.used


async def test_the_new_revision_is_warm_before_the_old_one_goes(house: House) -> None:
    house.pool.set_live("default", "kept", KEPT)
    await settle(60)
    fresh = KEPT._replace(number=2)
    house.pool.set_live("default", "kept", fresh)
    await settle(60)
    numbers = [sandbox.revision.number for sandbox in house.world.used if sandbox.revision]
    assert numbers == [1, 2], "both"
    assert house.call(fresh).cold is False
    await house.tick(3)
    assert [sandbox.revision.number for sandbox in house.world.used if sandbox.revision] == [2]
    assert house.world.alive == 3


async def test_a_function_in_use_is_warmed_at_a_switch_without_min_instances_too(house: House) -> None:
    house.pool.set_live("default", "hello", revision())
    (await house.calls(1))[0].end()
    house.pool.set_live("default", "hello", revision(number=2))
    await settle(60)
    after = house.call(revision(number=2))
    assert after.slot is not None and not after.cold


async def test_a_function_that_is_not_in_use_is_not_warmed(house: House) -> None:
    house.pool.set_live("default", "hello", revision())
    house.pool.set_live("default", "hello", revision(number=2))
    await settle(60)
    assert not house.world.used


async def test_reuse_never_gives_each_call_a_fresh_instance_of_one_sandbox(house: House) -> None:
    used = []
    for _ in range(4):
        [caller] = await house.calls(1, ONCE)
        assert caller.slot is not None
        used.append(caller.slot.instance)
        caller.end()
        await settle(40)
    assert len(set(map(id, used))) == 4
    assert len(house.world.used) == 1, "the import is shared, and was paid for once"
    assert house.world.alive == 1, "the next call's is there already"


async def test_reuse_never_at_many_callers(house: House) -> None:
    callers = await house.calls(20, ONCE)
    served = 0
    while pending := [caller for caller in callers if caller.running]:
        for caller in pending:
            caller.end()
            served += 1
        await settle(60)
    assert served == 20
    assert len({id(caller.slot.instance) for caller in callers if caller.slot}) == 20


async def test_max_requests_replaces_an_instance(house: House) -> None:
    short = revision("short", calls_max=3)
    seen = []
    for _ in range(6):
        [caller] = await house.calls(1, short)
        assert caller.slot is not None
        seen.append(caller.slot.instance)
        caller.end()
        await settle(40)
    assert seen[0] is seen[1] is seen[2] is not seen[3]
    assert seen[3] is seen[4] is seen[5]


@pytest.mark.parametrize(("on_processor", "more"), [(True, False), (False, True)])
async def test_a_call_that_waits_for_a_processor_is_no_reason_to_start_another(
    house: House, on_processor: bool, more: bool
) -> None:
    [caller] = await house.calls(1)
    for _ in range(20):
        house.clock.us += 50
        caller.end()
        caller = house.call()
    assert caller.slot is not None
    house.world.used[0].instances[0].on_processor = on_processor
    stuck = house.call()
    house.clock.pass_s(0.01)
    house.pool.nudge(look_for_stall=True)
    await settle()
    assert (stuck.slot is not None) is more
