"""Each tick becomes one call, whatever the number of gateways, and whatever happens to them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from gateway.budgets.budget import Budget
from gateway.durable.acceptance import Bounds
from gateway.triggers.store import TriggerStore
from gateway.triggers.trigger import TriggerId
from jiffy.contract import keys, wire
from jiffy.contract.messages import Call, InvocationRecord
from tests.gateway.fake_invoker import answer, publish
from tests.triggers.conftest import Lab

NIGHTLY = {"type": "schedule", "name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
SECONDS = {"type": "schedule", "name": "often", "cron": "* * * * * *"}


def times(calls: list[Call]) -> list[str]:
    return [json.loads(call.payload)["time"] for call in calls]


async def end(lab: Lab, call: Call) -> None:
    """As an invoker ends it."""
    key = keys.invocation(call.invocation)
    record = wire.unpack(InvocationRecord, await lab.redis.get(key))
    await lab.redis.set(key, wire.pack(record._replace(state="done", answer=answer(call))))


async def test_a_year_of_ticks_each_once_with_three_gateways(lab: Lab) -> None:
    """The clock jumps from tick to tick, over both changes of summer time; all gateways race for each."""
    await lab.deploy(NIGHTLY)
    gateways = [(await lab.gateway())[0] for _ in range(3)]
    end_ms = int(datetime(2028, 1, 1, tzinfo=UTC).timestamp() * 1000)
    found: list[Call] = []
    while lab.clock() < end_ms:
        dues = await asyncio.gather(*(scheduler.step(lab.clock()) for scheduler in gateways))
        found += await lab.calls()
        assert dues[0] is not None
        lab.clock.now_ms = max(lab.clock() + 1, min(due for due in dues if due is not None))
    stamps = times(found)
    assert len(stamps) == len(set(stamps)) == 365
    assert {"2027-03-27T01:30:00Z", "2027-03-28T01:00:00Z", "2027-10-31T00:30:00Z"} < set(stamps)


async def test_the_event_is_lambdas_and_the_call_carries_the_triggers_name(lab: Lab) -> None:
    await lab.deploy(NIGHTLY | {"detail": {"to": "all"}})
    scheduler, _ = await lab.gateway()
    due = await scheduler.step(lab.clock())
    assert due is not None
    lab.clock.now_ms = due
    await scheduler.step(lab.clock())
    (call,) = await lab.calls()
    event: dict[str, Any] = json.loads(call.payload)
    assert (call.mode, call.trigger, event["id"]) == ("async", "schedule nightly", call.invocation)
    assert (event["detail-type"], event["source"], event["detail"]) == ("Scheduled Event", "aws.events", {"to": "all"})
    assert event["time"] == "2027-01-01T01:30:00Z"
    record = wire.unpack(InvocationRecord, await lab.redis.get(keys.invocation(call.invocation)))
    assert (record.function, record.state) == ("report", "queued")


async def test_a_gateway_that_was_suspended_leaves_out_what_it_missed(lab: Lab) -> None:
    await lab.deploy(NIGHTLY)
    scheduler, _ = await lab.gateway()
    await scheduler.step(lab.clock())
    lab.clock.forward(days=3)
    await scheduler.step(lab.clock())
    assert await lab.calls() == []
    lab.clock.forward(hours=1, minutes=30)
    await scheduler.step(lab.clock())
    assert times(await lab.calls()) == ["2027-01-04T01:30:00Z"]


async def test_ticks_missed_while_all_gateways_were_down_are_caught_up_where_asked(lab: Lab) -> None:
    hourly = {"type": "schedule", "cron": "@hourly"}
    await lab.deploy(*(hourly | {"name": n, "catch_up": n} for n in ("skip", "one", "all")))
    await (await lab.gateway())[0].step(lab.clock())
    lab.clock.forward(hours=5, minutes=10)
    again, _ = await lab.gateway()
    await again.step(lab.clock())
    fired: dict[str, list[str]] = {}
    for call in await lab.calls():
        fired.setdefault(call.trigger, []).append(json.loads(call.payload)["time"][11:16])
    assert fired == {
        "schedule one": ["05:00"],
        "schedule all": ["01:00", "02:00", "03:00", "04:00", "05:00"],
    }


async def test_overlap(lab: Lab) -> None:
    await lab.deploy(*(SECONDS | {"name": n, "overlap": n} for n in ("allow", "skip", "queue")))
    scheduler, _ = await lab.gateway()
    await scheduler.step(lab.clock())
    running: dict[str, Call] = {}
    counts = {"schedule allow": 0, "schedule skip": 0, "schedule queue": 0}
    for _ in range(4):
        lab.clock.forward(seconds=1)
        await scheduler.step(lab.clock())
        for call in await lab.calls():
            running[call.trigger] = call
            counts[call.trigger] += 1
    assert counts == {"schedule allow": 4, "schedule skip": 1, "schedule queue": 1}
    for call in running.values():
        await end(lab, call)
    lab.clock.forward(seconds=1)
    await scheduler.step(lab.clock())
    caught = await lab.calls()
    by_name = {call.trigger: json.loads(call.payload)["time"][-3:-1] for call in caught}
    assert by_name == {"schedule allow": "05", "schedule skip": "05", "schedule queue": "02"}
    store = TriggerStore(lab.url)
    (state,) = await store.states([TriggerId("default", "report", "skip")])
    assert (state.fired, state.skipped) == (2, 3)
    assert [line.kind for line in await store.log(TriggerId("default", "report", "skip"), 10)].count("skipped") == 3
    await store.close()


async def test_a_pause_holds_for_all_gateways_and_its_ticks_are_not_missed_ones(lab: Lab) -> None:
    await lab.deploy(SECONDS | {"catch_up": "all"})
    scheduler, _ = await lab.gateway()
    await scheduler.step(lab.clock())
    store, key = TriggerStore(lab.url), TriggerId("default", "report", "often")
    await store.pause(key, lab.clock())
    lab.clock.forward(minutes=1)
    await scheduler.step(lab.clock())
    assert await lab.calls() == []
    await store.resume(key, lab.clock())
    lab.clock.forward(seconds=1)
    await scheduler.step(lab.clock())
    assert times(await lab.calls()) == ["2027-01-01T00:01:01Z"]
    assert [line.kind for line in await store.log(key, 10)] == ["paused", "resumed", "fired"]
    await store.close()


async def test_a_new_revision_replaces_its_triggers_and_a_removed_one_fires_no_more(lab: Lab) -> None:
    await lab.deploy(SECONDS)
    scheduler, catalog = await lab.gateway()
    await scheduler.step(lab.clock())
    await lab.deploy(SECONDS | {"cron": "*/10 * * * * *"}, number=2)
    await catalog.refresh("default", "report")
    await scheduler.step(lab.clock())
    for _ in range(10):
        lab.clock.forward(seconds=1)
        await scheduler.step(lab.clock())
    assert times(await lab.calls()) == ["2027-01-01T00:00:10Z"]
    await lab.deploy(number=3)
    await catalog.refresh("default", "report")
    assert await scheduler.step(lab.clock()) is None or not await lab.redis.exists(
        keys.trigger("default", "report", "often")
    )
    lab.clock.forward(seconds=30)
    await scheduler.step(lab.clock())
    assert await lab.calls() == []


async def test_a_gateway_that_has_not_heard_of_new_settings_fires_nothing_of_the_old(lab: Lab) -> None:
    await lab.deploy(SECONDS)
    one, _ = await lab.gateway()
    late, _ = await lab.gateway()
    await asyncio.gather(one.step(lab.clock()), late.step(lab.clock()))
    await lab.deploy(SECONDS | {"cron": "30 * * * * *"}, number=2)
    heard, _ = await lab.gateway()
    await heard.step(lab.clock())
    for _ in range(30):
        lab.clock.forward(seconds=1)
        await late.step(lab.clock())
        await late.step(lab.clock())
    assert times(await lab.calls()) == ["2027-01-01T00:00:30Z"]


async def test_a_function_that_no_host_can_run_holds_up_no_other_schedule(lab: Lab) -> None:
    await lab.deploy(SECONDS)
    await lab.deploy(SECONDS | {"name": "lost"}, name="elsewhere", store="another-data-folder")
    scheduler, _ = await lab.gateway()
    await scheduler.step(lab.clock())
    for _ in range(3):
        lab.clock.forward(seconds=1)
        await scheduler.step(lab.clock())
    assert [call.trigger for call in await lab.calls()] == ["schedule often"] * 3


async def test_what_another_release_stored_is_completed_or_passed_over(lab: Lab) -> None:
    """One option is all that the oldest schedule had; a cron that we can't read, a type that we do not know."""
    bare = {"type": "schedule", "name": "bare", "cron": "* * * * * *"}
    strange = [bare | {"name": "broken", "cron": "when it rains"}, {"type": "comet", "name": "comet"}]
    await publish(lab.url, "strange", spec={"triggers": strange})
    await publish(lab.url, "older", spec={"triggers": [*strange, bare]})
    scheduler, catalog = await lab.gateway()
    await scheduler.step(lab.clock())
    lab.clock.forward(seconds=1)
    await scheduler.step(lab.clock())
    assert [call.trigger for call in await lab.calls()] == ["schedule bare"]
    await publish(lab.url, "older", 2, spec={"triggers": strange})
    await catalog.refresh("default", "older")
    lab.clock.forward(seconds=1)
    await scheduler.step(lab.clock())
    assert not await lab.redis.exists(keys.trigger("default", "older", "bare"))
    assert await lab.calls() == []


async def test_a_tick_under_a_hard_budget_waits_where_calls_wait_for_their_time(lab: Lab) -> None:
    budget = Budget("default", "small", "function:report", "day", 1, hard=True)
    await lab.redis.hset(keys.BUDGETS, "default:small", json.dumps(asdict(budget)))
    await lab.deploy(NIGHTLY)
    scheduler, _ = await lab.gateway()
    due = await scheduler.step(lab.clock())
    assert due is not None
    lab.clock.now_ms = due
    await scheduler.step(lab.clock())
    assert await lab.calls() == []
    [(invocation, moment)] = await lab.redis.zrange(keys.LATER, 0, -1, withscores=True)
    assert moment == due
    call = wire.unpack(Call, await lab.redis.hget(keys.LATER_CALLS, invocation))
    assert (call.invocation, call.hold) == (invocation.decode(), ())
    assert await lab.redis.hget(keys.backlog("default"), invocation) == b"later"


async def test_a_full_backlog_takes_no_more_ticks_until_there_is_room(lab: Lab) -> None:
    await lab.deploy(SECONDS)
    scheduler, _ = await lab.gateway(Bounds(2, 1_000_000))
    await scheduler.step(lab.clock.now_ms)
    for _ in range(5):
        lab.clock.forward(seconds=1)
        await scheduler.step(lab.clock.now_ms)
    first = await lab.calls()
    assert times(first) == ["2027-01-01T00:00:01Z", "2027-01-01T00:00:02Z"]
    await lab.redis.hdel(keys.backlog("default"), *(call.invocation for call in first))
    lab.clock.forward(seconds=1)
    await scheduler.step(lab.clock.now_ms)
    assert len(await lab.calls()) == 2
