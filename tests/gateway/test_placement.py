"""Where calls go: always the same place, little movement, nobody overloaded."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.placement import NEVER_LOADED, OVERLOAD, Host, Placement, choose, live, order
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Heartbeat
from tests.gateway.fake_invoker import heartbeat

NOW = 1_700_000_000_000
names = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=2, max_size=12, unique=True)


def host(name: str, load: int = 0, capacity: int = 1000, network: bool = True, store: str = "") -> Host:
    return Host(name, capacity, load, network, store)


@given(names, st.text(max_size=20))
def test_an_invoker_that_leaves_moves_only_the_functions_that_preferred_it(invokers: list[str], function: str) -> None:
    before = order(function, invokers)
    gone = before[-1]
    assert order(function, reversed(invokers)) == before, "the order doesn't depend on how the hosts are listed"
    assert order(function, [i for i in invokers if i != gone]) == before[:-1]


def test_functions_spread_evenly_over_invokers() -> None:
    firsts = Counter(order(f"default\0fn-{n}", ["a", "b", "c", "d"])[0] for n in range(4000))
    assert all(800 < n < 1200 for n in firsts.values()), firsts


@given(names, st.integers(1, 600), st.data())
def test_no_invoker_gets_more_than_its_bounded_share(invokers: list[str], calls: int, data: st.DataObject) -> None:
    capacities = {i: data.draw(st.integers(1, 1000)) for i in invokers}
    loads = dict.fromkeys(invokers, 0)
    for _ in range(calls):
        loads[choose(order("default\0hello", invokers), loads, capacities)] += 1
    for invoker, load in loads.items():
        share = OVERLOAD * calls * capacities[invoker] / sum(capacities.values())
        assert load <= max(NEVER_LOADED, math.ceil(share))


def test_few_calls_of_one_function_stay_on_one_invoker() -> None:
    placement = Placement()
    placement.update([host("a"), host("b"), host("c")])
    used = set()
    for _ in range(NEVER_LOADED):
        invoker = placement.place("default", "hello")
        placement.begun(invoker)
        used.add(invoker)
    assert len(used) == 1
    placement.begun(first := used.pop())
    assert placement.place("default", "hello") != first, "past that they spread"
    placement.ended(first)
    placement.ended(first)
    assert placement.place("default", "hello") == first


def test_own_calls_are_not_counted_twice_when_heartbeats_tell_of_them() -> None:
    placement = Placement()
    placement.update([host("a"), host("b")])
    first = placement.place("default", "hello")
    for _ in range(10):
        placement.begun(first)
    placement.update([host("a", load=10), host("b", load=0)] if first == "a" else [host("a"), host("b", load=10)])
    assert placement.place("default", "hello") == first, "10 calls, not 20"


def test_silent_and_draining_invokers_get_no_calls() -> None:
    beats: list[Heartbeat] = [
        heartbeat("well", NOW - 400),
        heartbeat("silent", NOW - 2_100),
        heartbeat("draining", NOW, draining=True),
    ]
    assert [h.invoker for h in live(beats, NOW)] == ["well"]


def test_who_has_missed_a_heartbeat_gets_calls_only_where_nobody_else_can_take_them() -> None:
    placement = Placement()
    beats = [heartbeat("well", NOW - 900), heartbeat("quiet", NOW - 1_100)]
    placement.update(live(beats, NOW))
    assert {placement.place("default", f"f{n}") for n in range(20)} == {"well"}
    placement.update(live(beats[1:], NOW))
    assert placement.place("default", "f") == "quiet"
    placement.update(live([heartbeat("well", NOW), heartbeat("quiet", NOW)], NOW))
    assert {placement.place("default", f"f{n}") for n in range(20)} == {"well", "quiet"}, "it was only busy"


def test_a_function_with_a_network_goes_where_there_is_one() -> None:
    placement = Placement()
    placement.update([host("a", network=False), host("b")])
    assert {placement.place("default", f"f{n}", network=True) for n in range(20)} == {"b"}
    placement.update([host("a", network=False)])
    with pytest.raises(Unavailable, match="network"):
        placement.place("default", "f", network=True)
    assert placement.place("default", "f") == "a"


def test_a_function_goes_where_its_layers_are() -> None:
    placement = Placement()
    placement.update([host("a", store="one"), host("b", store="two")])
    assert {placement.place("default", f"f{n}", store="two") for n in range(20)} == {"b"}
    assert {placement.place("default", f"f{n}") for n in range(20)} == {"a", "b"}, "of an older builder: anywhere"
    with pytest.raises(Unavailable, match="built in another data folder"):
        placement.place("default", "f", store="three")
    placement.update([host("a", store="two")])
    assert placement.place("default", "f", store="two") == "a", "a host that came later and has them"
    placement.update([host("a", store="two"), replace(host("b", store="four"), registry="three")])
    assert placement.place("default", "f", store="three") == "b", "which can pull them"


def test_no_invoker_is_unavailable_with_a_time_to_try_again() -> None:
    with pytest.raises(Unavailable) as caught:
        Placement().place("default", "hello")
    assert caught.value.retry_after_s
