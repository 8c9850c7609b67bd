"""What the host's keep-alive policy makes of one revision: when its sleeping sandboxes go, and what they are worth.

The policy (keepalive.py) hears of calls at the pool's ticks, ten times a second: gaps that it cares for are longer, and
the hot path pays nothing. Ending, thinning and waking sandboxes is revision_pool.py's business.
"""

from __future__ import annotations

from .keepalive import Idle, KeepAlive, Plan
from .lease import Box

MB = 1024 * 1024


class Warmth:
    """See the module. `value` is as of the last look, so that choosing a victim asks nobody."""

    def __init__(self, key: tuple[str, str, int], keepalive: KeepAlive) -> None:
        self.value = 0.0
        self.init_us = 0  # what making its sandbox again would cost
        self._key = key
        self._keepalive = keepalive
        self._plan = Plan()
        self._size_mb = 1.0
        self._calls = 0  # that the policy has heard of

    def hear(self, calls: int, begun_us: int) -> None:
        """So many calls have begun in all, the last one then."""
        if calls != self._calls:
            self._calls = calls
            self._plan = Plan()
            self._keepalive.called(self._key, begun_us)

    def asleep(self, box: Box, now_us: int) -> None:
        """It is about to be frozen."""
        box.size_mb = self._size_mb = max(1.0, box.sandbox.memory_bytes() / MB)
        self._plan = self._keepalive.plan(self._idle(box.last_used_us))
        self.look(box.last_used_us, now_us)

    def _idle(self, since_us: int) -> Idle:
        return Idle(self._key, since_us, self._size_mb, self.init_us)

    def leaves(self, now_us: int) -> bool:
        """Is it time for a sleeping sandbox to go?"""
        return now_us >= self._plan.leave_us

    @property
    def returning(self) -> bool:
        """Is it to be made again without a call?"""
        return self._plan.back_us is not None

    def returns(self, now_us: int) -> bool:
        """Is it time for that? Said once."""
        if self._plan.back_us is None or now_us < self._plan.back_us:
            return False
        self._plan = Plan(self._plan.until_us)
        return True

    def look(self, since_us: int, now_us: int) -> None:
        self.value = self._keepalive.value(self._idle(since_us), now_us)

    def evicted(self, since_us: int) -> None:
        """It went because room was short."""
        self._keepalive.evicted(self._idle(since_us), self.value)
