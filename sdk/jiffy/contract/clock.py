"""The time: microseconds since the epoch on the Redis server's clock, told by this host's monotonic one.

Absolute times in messages (deadlines, when something was accepted or began) are on the Redis server's clock; each
process's store sets the offset with every heartbeat. Between two, a step of this host's wall clock moves nothing.
Durations and whatever ends after a while are measured on `monotonic_us` alone: a step of Redis's clock is never billed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SLOW_US = 50_000  # an answer that took longer tells the time too vaguely to follow it


class Clock:
    """Call it for the microseconds of now. `monotonic_ns` counts on whatever happens to any clock."""

    __slots__ = ("_known", "_monotonic_ns", "offset_us")

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.offset_us = time.time_ns() // 1000 - monotonic_ns() // 1000
        self._monotonic_ns = monotonic_ns
        self._known = False

    def __call__(self) -> int:
        return self._monotonic_ns() // 1000 + self.offset_us

    def monotonic_us(self) -> int:
        """Microseconds since some moment, for durations."""
        return self._monotonic_ns() // 1000

    def set(self, theirs_us: int, asked_ns: int, answered_ns: int) -> None:
        """The server said `theirs_us` between two readings of the monotonic clock.

        A slow answer is believed only where it proves that we are wrong.
        """
        least, most = theirs_us - answered_ns // 1000, theirs_us - asked_ns // 1000
        if self._known and most - least > SLOW_US and least <= self.offset_us <= most:
            return
        self.offset_us = (least + most) // 2
        self._known = True
