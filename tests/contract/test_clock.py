"""The Redis server's time, told by a monotonic clock."""

from __future__ import annotations

from jiffy.contract.clock import SLOW_US, Clock

THEIRS_US = 1_700_000_000_000_000


class Ticks:
    """A monotonic clock that is turned by hand, in nanoseconds."""

    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def __call__(self) -> int:
        return self.ns


def ask(clock: Clock, ticks: Ticks, theirs_us: int, takes_us: int = 200) -> None:
    """The server reads its clock halfway through."""
    asked = ticks.ns
    ticks.ns += takes_us * 1000
    clock.set(theirs_us, asked, ticks.ns)


def test_it_is_the_servers_time_and_goes_on_by_itself() -> None:
    ticks = Ticks()
    clock = Clock(ticks)
    ask(clock, ticks, THEIRS_US)
    assert clock() == THEIRS_US + 100
    ticks.ns += 1_000_000
    assert clock() == THEIRS_US + 1_100


def test_a_step_of_the_servers_clock_moves_no_duration() -> None:
    ticks = Ticks()
    clock = Clock(ticks)
    ask(clock, ticks, THEIRS_US)
    began = clock.monotonic_us()
    ask(clock, ticks, THEIRS_US + 3_600_000_000)
    assert clock.monotonic_us() - began == 200
    assert clock() == THEIRS_US + 3_600_000_100


def test_a_slow_answer_is_believed_only_where_it_proves_us_wrong() -> None:
    ticks = Ticks()
    clock = Clock(ticks)
    ask(clock, ticks, THEIRS_US, takes_us=2 * SLOW_US)  # the first one: better than nothing
    assert clock() == THEIRS_US + SLOW_US
    before = clock.offset_us
    ask(clock, ticks, clock() + SLOW_US // 2, takes_us=2 * SLOW_US)
    assert clock.offset_us == before, "the answer is as well explained by its slowness"
    ask(clock, ticks, THEIRS_US + 3_600_000_000, takes_us=2 * SLOW_US)
    assert clock() == THEIRS_US + 3_600_000_000 + SLOW_US
