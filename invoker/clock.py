"""The time: microseconds since the epoch on the Redis server's clock, told by this host's monotonic one.

Deadlines in messages are on the Redis server's clock. The store sets the offset with every heartbeat; between two, a
step of this host's wall clock moves nothing.
"""

from __future__ import annotations

import time


class Clock:
    """Call it for the microseconds of now."""

    __slots__ = ("_known", "offset_us")

    def __init__(self) -> None:
        self.offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        self._known = False

    def __call__(self) -> int:
        return time.monotonic_ns() // 1000 + self.offset_us

    def set(self, theirs_us: int, asked_ns: int, answered_ns: int, slow_us: int = 50_000) -> None:
        """The server said `theirs_us` between two readings of time.monotonic_ns(). A slow answer tells too little."""
        if answered_ns - asked_ns > slow_us * 1000 and self._known:
            return
        self.offset_us = theirs_us - (asked_ns + answered_ns) // 2000
        self._known = True
