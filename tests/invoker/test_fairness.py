"""Who gets room when there is too little: limits by name, shares, and turns."""

from __future__ import annotations

import asyncio
import json

import pytest

from invoker import policy
from invoker.room import Room, Scope
from invoker.stems import Demand
from jiffy.contract.messages import Outcome

from .fakes import FakeCaller, revision, settle
from .house import House

FLOOD = revision("flood", tenant="big")
SMALL = revision("small", tenant="small")


def refused(caller: FakeCaller) -> str:
    assert caller.refusal is not None and caller.refusal.outcome is Outcome.THROTTLED
    assert caller.refusal.retry_after_s > 0
    text: str = json.loads(caller.refusal.error)["errorMessage"]
    return text


async def test_a_tenant_has_at_most_its_instances_whatever_it_calls(house: House) -> None:
    house.pool.room.tenant_max = 2
    callers = await house.calls(2) + await house.calls(2, revision("other"))
    assert [bool(caller.slot) for caller in callers] == [True, True, False, False]
    elsewhere = await house.calls(1, SMALL)
    assert elsewhere[0].slot is not None, "another tenant's room is its own"
    house.clock.pass_s(11)
    house.pool.tick()
    assert "tenant_instances" in refused(callers[2])


async def test_an_idle_instance_of_a_tenant_makes_room_for_its_other_functions(house: House) -> None:
    house.pool.room.tenant_max = 1
    [idle] = await house.calls(1)
    idle.end()
    [fresh] = await house.calls(1, revision("other"))
    assert fresh.slot is not None


async def test_who_floods_a_full_host_gives_up_what_others_wait_for(house: House) -> None:
    house.pool.room.instances_max = 4
    flood = await house.calls(40, FLOOD)
    assert sum(bool(caller.slot) for caller in flood) == 4
    [small] = await house.calls(1, SMALL)
    assert small.slot is None, "no running call is ended for another's"
    next(caller for caller in flood if caller.running).end()
    await settle(60)
    assert small.slot is not None, "the first that ends makes room, though 36 of the flood's waited before"
    more = await house.calls(3, SMALL)
    for caller in [caller for caller in flood if caller.running]:
        caller.end()
        await settle(60)
    assert sum(bool(caller.slot) for caller in more) == 1, "and they share by halves"
    running = [caller for caller in flood if caller.running]
    assert len(running) == 2 and house.pool.instances == 4


async def test_functions_of_one_tenant_share_too(house: House) -> None:
    house.pool.room.tenant_max = 4
    flood = await house.calls(20, FLOOD)
    [other] = await house.calls(1, revision("other", tenant="big"))
    assert other.slot is None
    next(caller for caller in flood if caller.running).end()
    await settle(60)
    assert other.slot is not None


async def test_nothing_is_given_up_when_nobody_waits(house: House) -> None:
    house.pool.room.instances_max = 2
    flood = await house.calls(10, FLOOD)
    for _ in range(8):
        next(caller for caller in flood if caller.running).end()
        await settle(20)
    assert house.world.alive == 2 and sum(len(sandbox.instances) for sandbox in house.world.sandboxes) == 2


async def test_a_function_at_its_own_limit_takes_room_from_nobody(house: House) -> None:
    house.pool.room.instances_max = 4
    narrow = revision("narrow", tenant="small", max_instances=1)
    await house.calls(3, narrow)
    flood = await house.calls(10, FLOOD)
    for _ in range(4):
        next(caller for caller in flood if caller.running).end()
        await settle(20)
    assert sum(caller.running for caller in flood) == 3


async def test_a_tenants_flood_leaves_a_place_to_wait_for_others(house: House) -> None:
    house.pool.room.instances_max = 1
    many = [revision(f"f{n}", tenant="big") for n in range(4)]
    flood = [house.call(many[n % 4]) for n in range(policy.WAITING_MAX)]
    turned_away = [caller for caller in flood if caller.refusal]
    assert len(turned_away) == policy.WAITING_MAX // 2
    assert "(waiting)" in refused(turned_away[0])
    totals = house.pool.totals
    assert policy.read_count(totals.calls, totals.payload_bytes, 10) > 0, "the stream is read on"
    assert house.call(SMALL).refusal is None


def test_room_counts_to_nothing() -> None:
    room = Room(3, 2)
    for _ in range(2):
        room.enter(FLOOD)
    assert (full := room.full(FLOOD)) and full.scope is Scope.TENANT
    room.enter(SMALL)
    assert (full := room.full(SMALL)) and full.scope is Scope.HOST
    for one in (FLOOD, FLOOD, SMALL):
        room.leave(one)
    assert room.instances == 0 and room.full(FLOOD) is None and room.need(FLOOD) == (0, 0)


@pytest.mark.parametrize(("held", "theirs", "gives"), [(3, 1, True), (2, 1, False), (1, 0, False), (2, 0, True)])
def test_way_is_given_only_where_it_makes_shares_more_even(held: int, theirs: int, gives: bool) -> None:
    room = Room(held + theirs)
    for _ in range(held):
        room.enter(FLOOD)
    for _ in range(theirs):
        room.enter(SMALL)
    room.miss(SMALL, Scope.HOST)
    assert room.gives_way(FLOOD) is gives
    assert not room.gives_way(SMALL)


async def test_stems_go_to_tenants_in_turn() -> None:
    demand = Demand()
    flood = [demand.add("big") for _ in range(3)]
    small = demand.add("small")
    order = [demand.pop() for _ in range(4)]
    assert order == [flood[0], small, flood[1], flood[2]] and not demand
    assert all(isinstance(future, asyncio.Future) for future in order)
