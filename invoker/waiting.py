"""The calls of one revision that wait for an instance, first come, first served.

It counts them, and their payloads' bytes, into the totals of the whole invoker, and knows when the first of them may
no longer begin. Who serves them is revision_pool.py's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .lease import Caller


class Totals:
    """What waits in the whole invoker: it bounds how much is read from the stream."""

    __slots__ = ("calls", "payload_bytes")

    def __init__(self) -> None:
        self.calls = 0
        self.payload_bytes = 0


class Waiting:
    """A queue of callers."""

    __slots__ = ("_callers", "_earliest_us", "_totals")

    def __init__(self, totals: Totals) -> None:
        self._callers: deque[Caller] = deque()
        self._totals = totals
        self._earliest_us = 0  # no caller's latest start is before it

    def __len__(self) -> int:
        return len(self._callers)

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._callers)

    @property
    def first(self) -> Caller:
        return self._callers[0]

    def append(self, caller: Caller) -> None:
        if not self._callers or caller.latest_start_us < self._earliest_us:
            self._earliest_us = caller.latest_start_us
        self._callers.append(caller)
        self._totals.calls += 1
        self._totals.payload_bytes += caller.size

    def pop(self) -> Caller:
        caller = self._callers.popleft()
        self._totals.calls -= 1
        self._totals.payload_bytes -= caller.size
        return caller

    def late(self, now_us: int) -> list[Caller]:
        """Take out those whose latest start is past."""
        if not self._callers or now_us <= self._earliest_us:
            return []
        late = []
        for _ in range(len(self._callers)):
            caller = self.pop()
            if caller.latest_start_us < now_us:
                late.append(caller)
            else:
                self.append(caller)
        return late
