"""How the pool asks its keep-alive policy: what it is told, what it decides, and who goes when room is short."""

from __future__ import annotations

from collections.abc import Hashable

import click

from invoker.keepalive import DEFAULT, NEVER, POLICIES, Idle, Plan
from invoker.pool import Memory
from jiffy.cli.up import up

from .fakes import revision
from .house import House


class Scripted:
    """A policy that plans and values as it is told, by the function's name."""

    def __init__(self) -> None:
        self.calls: list[Hashable] = []
        self.gone: list[Hashable] = []
        self.worth: dict[str, float] = {}
        self.plans: dict[str, Plan] = {}
        self.asked: list[Idle] = []

    def called(self, key: Hashable, now_us: int) -> None:
        self.calls.append(key)

    def plan(self, idle: Idle) -> Plan:
        self.asked.append(idle)
        return self.plans.get(_name(idle.key), Plan())

    def value(self, idle: Idle, now_us: int) -> float:
        return self.worth.get(_name(idle.key), 0.0)

    def evicted(self, idle: Idle, value: float) -> None:
        self.gone.append(_name(idle.key))


def _name(key: Hashable) -> str:
    assert isinstance(key, tuple)
    return str(key[1])


def scripted(house: House) -> Scripted:
    house.pool.keepalive = chosen = Scripted()
    return chosen


async def called_once(house: House, *names: str) -> None:
    for name in names:
        (await house.calls(1, revision(name)))[0].end()
        await house.tick(0.3)


def warm(house: House) -> list[str]:
    return [box.revision.function for box in house.world.used if box.revision]


async def test_the_policy_hears_of_calls_and_is_asked_when_a_sandbox_falls_asleep(house: House) -> None:
    chosen = scripted(house)
    await called_once(house, "a")
    assert chosen.calls == [("default", "a", 1)]
    [idle] = chosen.asked
    assert idle.key == ("default", "a", 1) and idle.size_mb > 9
    await house.tick(5)
    assert len(chosen.calls) == 1, "once for each call"


async def test_a_sandbox_goes_when_its_plan_says_and_stays_for_ever_if_it_says_so(house: House) -> None:
    chosen = scripted(house)
    chosen.plans["a"] = Plan(house.clock() + 5_000_000)
    await called_once(house, "a", "b")
    await house.tick(4)
    assert warm(house) == ["a", "b"]
    await house.tick(2)
    assert warm(house) == ["b"]
    await house.tick(100_000)
    assert warm(house) == ["b"]


async def test_a_sandbox_comes_back_before_it_is_called_when_its_plan_says(house: House) -> None:
    chosen = scripted(house)
    began = house.clock()
    chosen.plans["a"] = Plan(began, began + 60_000_000, NEVER)
    await called_once(house, "a")
    await house.tick(1)
    assert warm(house) == []
    chosen.plans["a"] = Plan()
    await house.tick(61)
    assert warm(house) == ["a"]
    again = house.call(revision("a"))
    assert again.cold is False


async def test_where_room_is_short_the_least_valuable_goes(house: House) -> None:
    chosen = scripted(house)
    chosen.worth = {"a": 3.0, "b": 1.0, "c": 2.0}
    await called_once(house, "a", "b", "c")
    house.pool.room.instances_max = 3
    [caller] = await house.calls(1, revision("d"))
    assert caller.slot is not None and chosen.gone == ["b"] and warm(house) == ["a", "c", "d"]


async def test_what_sleeps_keeps_within_its_memory(house: House) -> None:
    chosen = scripted(house)
    chosen.worth = {"a": 1.0, "b": 3.0, "c": 2.0}
    await called_once(house, "a", "b", "c")
    house.pool.warm_mb = 20  # each takes 10
    await house.tick(2)
    assert warm(house) == ["b", "c"] and chosen.gone == ["a"]


async def test_a_host_short_of_memory_ends_what_sleeps_and_nothing_that_runs(house: House) -> None:
    scripted(house)
    await called_once(house, "a", "b")
    [busy] = await house.calls(1, revision("busy"))
    house.memory = Memory(16_000, 500)
    await house.tick(2)
    assert warm(house) == ["busy"] and busy.running


def test_jiffy_up_offers_every_policy_there_is() -> None:
    [option] = [one for one in up.params if one.name == "keep_alive"]
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(POLICIES) and option.default == DEFAULT
