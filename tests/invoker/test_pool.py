"""The warm set, with twins of sandboxes and a clock turned by hand."""

from __future__ import annotations

import asyncio
import json

import pytest

from invoker import policy
from invoker.pool import Memory
from invoker.sandbox import Loaded
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.messages import Outcome

from .fakes import revision, settle
from .house import HELLO, House


async def test_a_cold_call_takes_a_stem_and_the_next_one_finds_it_warm(house: House) -> None:
    first = house.call()
    house.clock.pass_s(0.004)
    await settle(40)
    assert first.slot is not None and first.cold and first.init_us == 4000
    first.end()
    second = house.call()
    assert second.slot is first.slot, "at once, on the same instance"
    assert not second.cold and second.init_us == 0
    assert len(house.world.used) == 1


async def test_stems_are_kept_ready_before_the_first_call(house: House) -> None:
    house.pool.set_live("default", "hello", HELLO)
    await settle(40)
    assert house.stems.ready() == {"python3.11": 2}
    await house.calls(1)
    assert house.stems.ready() == {"python3.11": 2}, "what was taken is refilled"
    assert house.world.starts == 3


async def test_callers_of_a_slow_function_get_an_instance_each_in_one_sandbox(house: House) -> None:
    callers = await house.calls(5)
    assert all(caller.slot for caller in callers)
    assert house.world.alive == 5 and len(house.world.used) == 1


async def test_many_callers_of_a_fast_function_share_few_instances(house: House) -> None:
    [caller] = await house.calls(1)
    for _ in range(20):  # it becomes clear that a call takes 50 µs
        house.clock.us += 50
        caller.end()
        caller = house.call()
    others = [house.call() for _ in range(10)]
    await settle(40)
    assert house.world.alive == 1
    for waiting in others:
        house.clock.us += 50
        caller.end()
        assert waiting.slot is not None, "first come, first served"
        caller = waiting


async def test_a_fast_function_that_became_slow_scales_out_all_the_same(house: House) -> None:
    [caller] = await house.calls(1)
    for _ in range(20):
        house.clock.us += 50
        caller.end()
        caller = house.call()
    stuck = house.call()
    await settle()
    assert stuck.slot is None
    house.clock.pass_s(0.01)
    house.pool.nudge(look_for_stall=True)
    await settle()
    assert stuck.slot is not None


async def test_max_instances_holds_and_the_queue_is_first_come_first_served(house: House) -> None:
    narrow = revision(max_instances=2)
    callers = await house.calls(6, narrow)
    assert [bool(caller.slot) for caller in callers] == [True, True, False, False, False, False]
    callers[1].end()
    assert callers[2].slot is not None and callers[3].slot is None
    callers[0].end()
    assert callers[3].slot is not None and callers[4].slot is None


async def test_a_call_that_can_no_longer_begin_is_throttled_with_the_limits_name(house: House) -> None:
    narrow = revision(max_instances=1)
    first, second, third = await house.calls(3, narrow)
    last = house.call(narrow, latest_s=20.0)
    house.clock.pass_s(10.1)
    house.pool.tick()
    for caller in (second, third):
        assert caller.refusal is not None and caller.refusal.outcome is Outcome.THROTTLED
        assert caller.refusal.retry_after_s > 0
        error = json.loads(caller.refusal.error)
        assert error["errorType"] == "Jiffy.Throttled" and "max_instances = 1" in error["errorMessage"]
    assert last.refusal is None
    first.end()
    assert last.slot is not None
    assert house.pool.totals.calls == 0 and house.pool.totals.payload_bytes == 0


async def test_a_late_call_is_not_started_even_when_an_instance_gets_free(house: House) -> None:
    narrow = revision(max_instances=1)
    first, second = await house.calls(2, narrow)
    house.clock.pass_s(11)
    first.end()
    assert second.slot is None and second.refusal is not None
    assert second.refusal.outcome is Outcome.THROTTLED


async def test_one_function_cannot_fill_the_whole_queue(house: House) -> None:
    callers = [house.call() for _ in range(policy.WAITING_PER_FUNCTION + 1)]
    assert callers[-1].refusal is not None and callers[-1].refusal.outcome is Outcome.THROTTLED
    assert all(caller.refusal is None for caller in callers[:-1])


async def test_an_import_error_is_told_to_all_who_waited_and_tried_once(house: House) -> None:
    house.world.loading = Loaded(5, b'{"errorType": "Runtime.ImportModuleError"}', b"importing\n")
    callers = await house.calls(5)
    assert [caller.refusal.outcome for caller in callers if caller.refusal] == [Outcome.ERROR] * 5
    assert [caller.refusal.log for caller in callers if caller.refusal] == [b"importing\n", b"", b"", b"", b""]
    assert not house.world.used, "what could not be imported is closed"
    house.world.loading = Loaded(5, None, b"")
    [again] = await house.calls(1)
    assert again.slot is not None, "nothing is held against the next call"


async def test_what_an_import_prints_goes_to_the_first_call(house: House) -> None:
    house.world.loading = Loaded(5, None, b"hello from the import\n")
    first, second = await house.calls(2)
    assert (first.init_log, second.init_log) == (b"hello from the import\n", b"")


async def test_a_sandbox_that_fails_us_is_tried_once_more_and_then_the_call_fails(house: House) -> None:
    house.world.loading = SandboxFailed("the mount failed")
    [caller] = await house.calls(1)
    assert caller.refusal is not None and caller.refusal.outcome is Outcome.PLATFORM
    assert b"the mount failed" in caller.refusal.error
    assert sum(sandbox.revision is not None for sandbox in house.world.sandboxes) == 2
    assert house.pool.instances == 0


async def test_a_second_sandbox_may_mend_it(house: House) -> None:
    house.world.loading = SandboxFailed("the mount failed")
    caller = house.call()
    while sum(sandbox.revision is not None for sandbox in house.world.sandboxes) < 2:
        await settle(1)
    house.world.loading = Loaded(5, None, b"")
    await settle(40)
    assert caller.slot is not None


async def test_no_stem_no_call(house: House) -> None:
    house.world.start_error = SandboxFailed("the engine is gone")
    [caller] = await house.calls(1)
    assert caller.refusal is not None and caller.refusal.outcome is Outcome.PLATFORM
    assert house.world.starts == 2, "twice for the call; the shelf leaves a failing driver alone"


async def test_a_dead_instance_is_replaced(house: House) -> None:
    first, second = await house.calls(2)
    assert first.slot is not None and second.slot is not None
    first.slot.pool.lost(first.slot)  # it died under its call
    second.end()
    idle = house.world.used[0].instances[1]
    idle.die()  # and the other one while idle
    assert house.pool.instances == 0
    [third] = await house.calls(1)
    assert third.slot is not None and not third.cold, "forked from the same zygote"
    assert len(house.world.used) == 1


async def test_a_sandbox_that_ends_by_itself_is_replaced(house: House) -> None:
    [first] = await house.calls(1)
    first.end()
    await house.world.used[0].close()
    assert house.pool.instances == 0
    [second] = await house.calls(1)
    assert second.slot is not None and second.cold


async def test_idle_sandboxes_are_frozen_and_wake_for_a_call(house: House) -> None:
    [first] = await house.calls(1)
    first.end()
    await house.tick(0.3)
    [sandbox] = house.world.used
    assert sandbox.frozen
    assert house.pool.statuses()[0].frozen == 1
    [second] = await house.calls(1)
    assert second.slot is first.slot and not sandbox.frozen and not second.cold


async def test_a_busy_sandbox_is_not_frozen(house: House) -> None:
    await house.calls(1)
    await house.tick(5)
    assert not house.world.used[0].frozen


async def test_a_call_during_the_freeze_is_served(house: House) -> None:
    [first] = await house.calls(1)
    first.end()
    house.clock.pass_s(0.3)
    house.pool.tick()  # the freeze has been asked for and is not done
    second = house.call()
    await settle(40)
    assert second.slot is not None


async def test_idle_instances_end_then_their_sandbox_does(house: House) -> None:
    for caller in await house.calls(3):
        caller.end()
    await house.tick(1)
    await house.tick(30)
    assert house.world.alive == 3
    await house.tick(31)
    assert house.world.alive == 0 and len(house.world.used) == 1
    assert house.world.used[0].frozen, "the zygote waits on for a while"
    await house.tick(600)
    assert not house.world.used and house.pool.instances == 0
    assert house.pool.statuses() == ()


async def test_a_new_revision_takes_over_and_the_old_one_drains(house: House) -> None:
    old = await house.calls(2)
    house.pool.set_live("default", "hello", revision(number=2))
    [fresh] = await house.calls(1, revision(number=2))
    assert fresh.slot is not None and fresh.cold
    old[0].end()
    await house.tick(3)
    assert [sandbox.revision.number for sandbox in house.world.used if sandbox.revision] == [1, 2]
    assert house.world.alive == 2, "the old one's idle instance is gone, its running call goes on"
    old[1].end()
    await house.tick(3)
    assert [sandbox.revision.number for sandbox in house.world.used if sandbox.revision] == [2]


async def test_idle_instances_of_the_old_revision_make_room_for_the_new(house: House) -> None:
    [old] = await house.calls(1, revision(max_instances=1))
    [fresh] = await house.calls(1, revision(number=2, max_instances=1))
    assert fresh.slot is None, "max_instances counts all revisions of a function"
    old.end()
    house.pool.tick()
    await settle(40)
    assert fresh.slot is not None


async def test_a_call_of_a_later_revision_does_not_end_the_one_that_was_put_back_in_service(house: House) -> None:
    house.pool.set_live("default", "hello", HELLO)
    [caller] = await house.calls(1)
    caller.end()
    [pinned] = await house.calls(1, revision(number=2))
    pinned.end()
    await house.tick(3)
    assert [sandbox.revision.number for sandbox in house.world.used if sandbox.revision] == [1]


async def test_a_removed_function_leaves_nothing_warm(house: House) -> None:
    [caller] = await house.calls(1)
    house.pool.set_live("default", "hello", None)
    caller.end()
    await house.tick(3)
    assert not house.world.used


async def test_a_full_host_turns_out_what_is_idle_elsewhere(house: House) -> None:
    house.pool.room.instances_max = 2
    [idle] = await house.calls(1, revision("idle"))
    [busy] = await house.calls(1, revision("busy"))
    idle.end()
    [fresh] = await house.calls(1, revision("fresh"))
    assert fresh.slot is not None and busy.slot is not None
    [refused] = await house.calls(1, revision("refused"))
    assert refused.slot is None
    house.clock.pass_s(11)
    house.pool.tick()
    assert refused.refusal is not None and b"2 instances" in refused.refusal.error


async def test_a_host_without_memory_starts_nothing_more(house: House) -> None:
    house.memory = Memory(16_000, 1_000)
    house.pool.tick()
    [caller] = await house.calls(1)
    assert caller.slot is None
    house.memory = Memory(16_000, 8_000)
    house.pool.tick()
    await settle(40)
    assert caller.slot is not None


async def test_a_sandbox_holds_so_many_instances_and_the_next_goes_into_another(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "INSTANCES_PER_SANDBOX", 2)
    callers = await house.calls(3)
    await settle(40)
    assert all(caller.slot for caller in callers)
    assert len(house.world.used) == 2


async def test_closing_refuses_what_waits_and_a_cold_start_under_way(house: House) -> None:
    gate = asyncio.get_running_loop().create_future()
    house.world.step = lambda: gate  # type: ignore[method-assign,assignment]
    caller = house.call()
    await settle()
    closing = asyncio.ensure_future(house.pool.close())
    await settle()
    assert caller.refusal is not None and caller.refusal.outcome is Outcome.PLATFORM
    gate.set_result(None)
    await closing
    assert all(sandbox.closed for sandbox in house.world.sandboxes)


async def test_status_counts_calls(house: House) -> None:
    for caller in await house.calls(3):
        caller.end()
    [row] = house.pool.statuses()
    assert (row.function, row.revision, row.idle, row.running, row.calls) == ("hello", 1, 3, 0, 3)
    assert row.cold_calls == 3 and row.memory_bytes == 10_000_000


async def test_the_figures_say_where_a_cold_start_spent_its_time_and_who_waited(house: House) -> None:
    house.world.loading = Loaded(3_000, None, b"")
    first = house.call()
    house.clock.pass_s(0.004)
    await settle(40)
    first.end()
    for _ in range(3):
        house.call().end()
    figures = house.pool.figures.packed(house.pool.begun)
    counts, total_us = figures["queue_wait"]
    assert sum(counts) == 4 and counts[0] == 3 and total_us == 4_000
    assert set(figures) == {"queue_wait", *(f"cold_{p}" for p in ("stem_wait", "specialise", "import", "fork"))}
    assert figures["cold_import"] == ((0, 0, 0, 1, *[0] * 10), 3_000)
    assert house.pool.figures.decisions["open"] == 1
    [row] = house.pool.statuses()
    assert row.waited_us == 4_000 and row.calls == 4
