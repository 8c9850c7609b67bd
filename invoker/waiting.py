"""The calls of one revision that wait for an instance, first come, first served.

It counts them, and their payloads' bytes, into the totals of the whole invoker and of their tenant, and knows when the
first of them may no longer begin. Who serves them is revision_pool.py's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from . import policy
from .lease import Caller
from .refusal import Refusal


class Sum:
    """Calls that wait, and the bytes of their payloads."""

    __slots__ = ("calls", "payload_bytes")

    def __init__(self) -> None:
        self.calls = 0
        self.payload_bytes = 0


class Totals(Sum):
    """What waits in the whole invoker, and of each tenant. It bounds how much is read from the stream."""

    __slots__ = ("_tenants",)

    def __init__(self) -> None:
        super().__init__()
        self._tenants: dict[str, Sum] = {}

    def of(self, tenant: str) -> Sum:
        return self._tenants.setdefault(tenant, Sum())


class Waiting:
    """A queue of callers."""

    __slots__ = ("_callers", "_earliest_us", "_tenant", "_totals")

    def __init__(self, totals: Totals, tenant: str) -> None:
        self._tenant = totals.of(tenant)
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

    def full(self, caller: Caller) -> bool:
        """Is there no place for one more? See policy.may_wait."""
        return not policy.may_wait(
            *(len(self._callers), self._tenant.calls, self._totals.calls),
            *(self._tenant.payload_bytes + caller.size, self._totals.payload_bytes),
        )

    def append(self, caller: Caller) -> None:
        if not self._callers or caller.latest_start_us < self._earliest_us:
            self._earliest_us = caller.latest_start_us
        self._callers.append(caller)
        for total in (self._totals, self._tenant):
            total.calls += 1
            total.payload_bytes += caller.size

    def pop(self) -> Caller:
        caller = self._callers.popleft()
        for total in (self._totals, self._tenant):
            total.calls -= 1
            total.payload_bytes -= caller.size
        return caller

    def mark_cold(self, now_us: int, begun_us: int, text: bytes) -> None:
        """They all waited for a cold start that began then, and whose import printed `text`."""
        for caller in self._callers:
            caller.cold = True
            caller.init_us = now_us - max(begun_us, caller.arrived_us)
        if self._callers:
            self.first.init_log = text

    def refuse_all(self, refusal: Refusal, now_us: int, begun_us: int = 0) -> None:
        """Tell every one the same; `begun_us` is when the cold start began that they waited for."""
        first = True
        while self._callers:
            caller = self.pop()
            init_us = now_us - max(begun_us, caller.arrived_us) if begun_us else 0
            caller.refuse(refusal.after(init_us, first=first))
            first = False

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
