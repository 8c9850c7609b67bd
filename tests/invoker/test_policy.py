"""What to start, keep and read: plain tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invoker import policy
from jiffy.contract import limits


@pytest.mark.parametrize(
    ("queued", "instances", "starting", "mean_us", "stalled_us", "limit", "expected"),
    [
        (1, 0, 0, 0, 0, 100, 1),  # the first call
        (64, 0, 0, 0, 0, 100, 1),  # a burst on a cold function: one import, then see
        (1, 0, 1, 0, 0, 100, 0),  # its instance is on the way
        (5, 1, 0, 0, 0, 100, 2),  # duration unknown: a few, until it is
        (63, 1, 0, 50, 0, 100, 3),  # 64 callers of 50 µs share four instances
        (63, 4, 0, 50, 0, 100, 0),
        (63, 1, 0, 1_000, 0, 1000, policy.FORKS_AT_ONCE),
        (10, 1, 0, 50, 0, 100, 0),  # 1.5 ms of queue is no dearer than a fork
        (5, 1, 0, 100_000, 0, 100, 5),  # a slow function: one each
        (5, 1, 3, 100_000, 0, 100, 2),  # those on the way count
        (5, 4, 0, 100_000, 0, 4, 0),  # max_instances
        (5, 2, 1, 100_000, 0, 4, 1),
        (500, 1, 0, 100_000, 0, 1000, policy.FORKS_AT_ONCE),
        (9, 1, 0, 50, policy.STALL_US, 100, 1),  # the mean says 50 µs, but nothing moves
        (9, 4, 0, 50, policy.STALL_US, 100, 4),  # double, at most
        (9, 1, 0, 50, policy.STALL_US - 1, 100, 0),
        (0, 3, 0, 50, 0, 100, 0),
    ],
)
def test_scale_out(
    queued: int, instances: int, starting: int, mean_us: float, stalled_us: int, limit: int, expected: int
) -> None:
    assert policy.wanted(queued, instances, starting, mean_us, stalled_us, limit) == expected


@given(
    queued=st.integers(0, 5000),
    instances=st.integers(0, 1000),
    starting=st.integers(0, 20),
    mean_us=st.floats(0, 1e9),
    stalled_us=st.integers(0, 10**8),
    limit=st.integers(1, 10_000),
)
def test_scale_out_stays_in_bounds(
    queued: int, instances: int, starting: int, mean_us: float, stalled_us: int, limit: int
) -> None:
    more = policy.wanted(queued, instances, starting, mean_us, stalled_us, limit)
    assert 0 <= more <= max(0, queued - starting)
    assert more == 0 or instances + starting + more <= limit
    if queued and not instances and not starting:
        assert more == 1  # nobody waits for nothing


def test_the_usual_duration_follows_what_it_learns() -> None:
    usual = policy.learned(0.0, 1000)
    assert usual == 1000
    for _ in range(30):
        usual = policy.learned(usual, 50)
    assert usual == pytest.approx(50, rel=0.1)
    for _ in range(50):
        usual = policy.learned(usual, 100_000)
    assert usual == 100_000


def test_calls_that_waited_for_a_processor_hardly_change_what_is_usual() -> None:
    """One in five calls is preempted for 10 ms: the others say how long the work takes."""
    usual = policy.learned(0.0, 35)
    for n in range(1000):
        usual = policy.learned(usual, 10_000 if n % 5 == 0 else 35)
    assert usual < 70


@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_the_usual_duration_stays_within_what_was_seen(durations: list[int]) -> None:
    usual = 0.0
    for duration in durations:
        usual = policy.learned(usual, duration)
    assert max(1, min(durations)) * 0.999 <= usual <= max(1, *durations) * 1.001


@pytest.mark.parametrize(
    ("there", "starting", "floor", "expected"),
    [(0, 0, 0, 0), (0, 0, 3, 3), (2, 0, 3, 1), (5, 0, 3, 0), (0, 0, 500, 8), (100, 6, 500, 2), (100, 8, 500, 0)],
)
def test_what_is_missing_of_those_kept_ready(there: int, starting: int, floor: int, expected: int) -> None:
    assert policy.short_of(there, starting, floor) == expected


def test_a_handler_is_not_started_when_it_could_not_end_in_time() -> None:
    assert policy.latest_start_us(deadline_ms=13_000, timeout_ms=3_000) == 10_000_000


@pytest.mark.parametrize(
    ("idle_s", "live", "expected"), [(59, True, False), (60, True, True), (1, False, False), (2, False, True)]
)
def test_idle_instances_go(idle_s: int, live: bool, expected: bool) -> None:
    assert policy.instance_expired(idle_s * policy.SECOND_US, 0, live, policy.Keep()) is expected


@pytest.mark.parametrize(("idle_s", "instances", "expected"), [(1, 0, False), (2, 0, True), (9999, 1, False)])
def test_sandboxes_of_no_use_go(idle_s: int, instances: int, expected: bool) -> None:
    assert policy.stale(idle_s * policy.SECOND_US, 0, instances) is expected


def test_only_idle_sandboxes_are_frozen() -> None:
    keep = policy.Keep()
    assert policy.freeze_due(keep.freeze_after_us, 0, 0, keep)
    assert not policy.freeze_due(keep.freeze_after_us, 0, 1, keep)
    assert not policy.freeze_due(keep.freeze_after_us - 1, 0, 0, keep)


@pytest.mark.parametrize(
    ("waiting", "waiting_bytes", "mean_bytes", "expected"),
    [
        (0, 0, 100, limits.STREAM_READ_MAX),
        (policy.WAITING_MAX, 0, 100, 0),
        (policy.WAITING_MAX - 5, 0, 100, 5),
        (3, policy.WAITING_BYTES_MAX, 100, 0),
        (0, 0, limits.PAYLOAD_MAX_BYTES, policy.WAITING_BYTES_MAX // limits.PAYLOAD_MAX_BYTES),
        (0, policy.WAITING_BYTES_MAX - 1, limits.PAYLOAD_MAX_BYTES, 1),
    ],
)
def test_no_more_is_read_than_fits(waiting: int, waiting_bytes: int, mean_bytes: float, expected: int) -> None:
    assert policy.read_count(waiting, waiting_bytes, mean_bytes) == expected


def test_memory_is_what_is_really_free() -> None:
    reserve = policy.reserve_mb(8_000)
    assert policy.fits(reserve + 128, reserve, 128)
    assert not policy.fits(reserve + 127, reserve, 128)


def test_retry_after_is_never_silly() -> None:
    assert policy.retry_after_s(1, 1, 50) == policy.RETRY_AFTER_MIN_S
    assert policy.retry_after_s(10, 2, 1_000_000) == pytest.approx(5.0, rel=0.01)
    assert policy.retry_after_s(10**6, 0, 1e9) == policy.RETRY_AFTER_MAX_S


def test_a_failing_driver_is_left_alone_longer_and_longer() -> None:
    pauses = [policy.backoff_s(n) for n in range(1, 12)]
    assert pauses == sorted(pauses) and pauses[0] == policy.BACKOFF_MIN_S and pauses[-1] == policy.BACKOFF_MAX_S


@pytest.mark.parametrize(
    ("floor", "rate", "start_s", "expected"),
    [
        (2, 0, 0.2, 2),
        (2, 1, 0.2, 3),
        (2, 10, 0.2, 6),
        (2, 50, 0.04, 6),
        (2, 1000, 0.2, policy.STEMS_MAX),
        (0, 50, 0.2, 0),
    ],
)
def test_stems_follow_the_rate_of_cold_starts(floor: int, rate: float, start_s: float, expected: int) -> None:
    assert policy.stems_kept(floor, rate, start_s) == expected


def test_the_rate_of_cold_starts_is_learnt_and_forgotten() -> None:
    rate = 0.0
    for _ in range(500):
        rate = policy.cold_rate(rate, 0.1, 1)
    assert rate == pytest.approx(10, rel=0.05)
    assert policy.cold_rate(rate, 60) < 0.1


def test_waiting_is_shared_so_that_a_place_is_left() -> None:
    """However many tenants flood, each is stopped before the last place is taken."""
    held = [0] * 20
    while True:
        able = [n for n, have in enumerate(held) if policy.may_wait(0, have, sum(held), 0, 0)]
        if not able:
            break
        held[min(able, key=held.__getitem__)] += 1
    assert sum(held) < policy.WAITING_MAX and min(held) > policy.WAITING_MAX // 25
    assert policy.may_wait(0, 0, sum(held), 0, 0)
    assert policy.may_wait(0, 0, 0, policy.WAITING_BYTES_MAX * 2, 0), "a single large one may always"
    assert not policy.may_wait(0, 1, 1, policy.WAITING_BYTES_MAX, 1)
