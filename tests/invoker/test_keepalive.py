"""Keep-alive policies: what each promises, on small worlds; the day's figures are tests/benchmarks/keepalive's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invoker.keepalive import (
    DEFAULT,
    KEYS_MAX,
    MINUTE_US,
    NEVER,
    POLICIES,
    FixedTime,
    GreedyDual,
    HitDensity,
    HybridHistogram,
    Idle,
    KeepAlive,
    LeastRecentlyUsed,
)
from tests.benchmarks.keepalive.day import Day
from tests.benchmarks.keepalive.replay import Calls, Clairvoyant, Replay, bound


def idle(key: str, since_us: int, size_mb: float = 100.0, init_us: int = 100_000) -> Idle:
    return Idle(key, since_us, size_mb, init_us)


def every(policy: KeepAlive, key: str, minutes: float, times: int) -> int:
    """Call `key` every so many minutes; the last call's moment."""
    at = 0
    for n in range(times):
        at = int(n * minutes * MINUTE_US)
        policy.called(key, at)
    return at


def test_fixed_time_ends_what_was_idle_for_so_long() -> None:
    assert FixedTime(5 * MINUTE_US).plan(idle("a", 7)).leave_us == 5 * MINUTE_US + 7


def test_without_pressure_the_default_lets_everything_stay() -> None:
    policy = POLICIES[DEFAULT]()
    policy.called("a", 0)
    assert policy.plan(idle("a", 0)).leave_us == NEVER


def test_least_recently_used_values_by_the_last_use_alone() -> None:
    policy = LeastRecentlyUsed()
    assert policy.value(idle("a", 10, size_mb=1), 99) < policy.value(idle("b", 11, size_mb=1000), 99)


def test_greedy_dual_keeps_what_is_called_often_small_and_dear_to_start() -> None:
    policy = GreedyDual()
    for _ in range(5):
        policy.called("often", 0)
    policy.called("once", 0)
    often, once = idle("often", 0), idle("once", 0)
    assert policy.value(often, 1) > policy.value(once, 1)
    assert policy.value(idle("once", 0, size_mb=50), 1) > policy.value(once, 1)
    assert policy.value(idle("once", 0, init_us=900_000), 1) > policy.value(once, 1)


def test_greedy_dual_lets_old_fame_fade() -> None:
    policy = GreedyDual()
    for _ in range(5):
        policy.called("famous", 0)
    famous = idle("famous", 0)
    for n in range(10):  # others come and go, and the clock with them
        key = f"passer-{n}"
        for _ in range(n + 1):
            policy.called(key, n)
        policy.evicted(idle(key, n), policy.value(idle(key, n), n))
    policy.called("new", 99)
    assert policy.value(idle("new", 99), 99) > policy.value(famous, 99)


def test_the_hybrid_histogram_lets_a_timers_sandbox_go_and_has_it_back_before_the_next_call() -> None:
    policy = HybridHistogram()
    last_us = every(policy, "timer", 30, 40)
    plan = policy.plan(idle("timer", last_us))
    next_us = last_us + 30 * MINUTE_US
    assert plan.back_us is not None
    assert last_us == plan.leave_us < plan.back_us < next_us < plan.until_us < next_us + 10 * MINUTE_US


def test_the_hybrid_histogram_keeps_what_it_knows_too_little_about_for_its_whole_range() -> None:
    policy = HybridHistogram()
    policy.called("new", 0)
    assert policy.plan(idle("new", 0)).leave_us == 240 * MINUTE_US


def test_hit_density_values_a_timers_sandbox_low_after_its_call_and_high_before_the_next() -> None:
    policy = HitDensity()
    last_us = every(policy, "timer", 60, 30)
    just_after = policy.value(idle("timer", last_us), last_us + MINUTE_US)
    just_before = policy.value(idle("timer", last_us), last_us + 58 * MINUTE_US)
    assert just_before > 3 * just_after


def test_hit_density_prefers_the_busier_and_the_smaller() -> None:
    policy = HitDensity()
    last_us = max(every(policy, "busy", 1, 50), every(policy, "rare", 50, 2))
    for key in ("busy", "rare"):
        policy.called(key, last_us)
    now_us = last_us + MINUTE_US // 2
    busy, rare = (policy.value(idle(key, last_us), now_us) for key in ("busy", "rare"))
    assert busy > rare
    assert policy.value(idle("rare", last_us, size_mb=10), now_us) > rare


@pytest.mark.parametrize("name", POLICIES)
@given(
    calls=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3 * 60 * MINUTE_US)), min_size=1, max_size=40),
    later_us=st.integers(0, 24 * 60 * MINUTE_US),
)
def test_any_history_gives_a_number_and_a_plan_that_goes_forward(
    name: str, calls: list[tuple[str, int]], later_us: int
) -> None:
    policy, now_us = POLICIES[name](), 0
    for key, gap_us in calls:
        now_us += gap_us
        policy.called(key, now_us)
        plan = policy.plan(idle(key, now_us))
        assert now_us <= plan.leave_us
        if plan.back_us is not None:
            assert plan.leave_us <= plan.back_us <= plan.until_us
        value = policy.value(idle(key, now_us), now_us + later_us)
        assert value >= 0.0


def test_a_policy_forgets_the_functions_called_longest_ago() -> None:
    policy = GreedyDual()
    for _ in range(5):
        policy.called("old", 0)
    assert policy.value(idle("old", 0), 1) > 0
    for n in range(KEYS_MAX):
        policy.called(n, 0)
    assert policy.value(idle("old", 0), 1) == policy.value(idle("never seen", 0), 1) == 0


# --- on a day ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def calls() -> Calls:
    return Day(150, seed=5).arrivals()


def test_the_same_seed_gives_the_same_day(calls: Calls) -> None:
    assert Day(150, seed=5).arrivals() == calls


def test_the_default_beats_fixed_time_in_the_same_memory_and_nobody_beats_the_bound(calls: Calls) -> None:
    fixed = Replay(FixedTime(), 1e12).run(calls)
    budget_mb = fixed.peak_mb
    default = Replay(POLICIES[DEFAULT](), budget_mb).run(calls)
    seer = Replay(Clairvoyant(calls), budget_mb).run(calls)
    assert default.cold < fixed.cold * 0.7
    assert bound(calls, budget_mb) <= seer.cold <= default.cold


def test_with_room_for_all_each_function_is_cold_once(calls: Calls) -> None:
    everyone = len({function.number for _, function in calls})
    assert Replay(LeastRecentlyUsed(), 1e12).run(calls).cold == everyone == bound(calls, 1e12)
