"""Replays a day against one keep-alive policy under a memory budget, and says what no policy could beat.

A function has one sandbox at most: further concurrent calls are forks in it, which are no cold starts. A sandbox is
held while it runs and while it is kept; what is busy is never evicted, and may pass the budget.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from invoker.keepalive import NEVER, Idle, KeepAlive, Plan

from .day import DAY_S, Function

SECOND_US = 1_000_000
CANDIDATES = 128  # idle sandboxes looked at for one victim, drawn at random: as Redis does, and LHD
Calls = Sequence[tuple[float, Function]]


@dataclass(slots=True)
class Result:
    """What a day cost."""

    calls: int = 0
    cold: int = 0
    held_mb_s: float = 0.0  # busy and idle
    idle_mb_s: float = 0.0
    peak_mb: float = 0.0
    seconds: float = 0.0  # that the replay took

    @property
    def cold_share(self) -> float:
        return self.cold / self.calls

    @property
    def held_mb(self) -> float:
        """On average over the day."""
        return self.held_mb_s / DAY_S

    @property
    def wasted(self) -> float:
        """The share of held memory that no call was using."""
        return self.idle_mb_s / self.held_mb_s if self.held_mb_s else 0.0


class _Warm:
    __slots__ = ("busy_until", "function", "since", "slot", "version")

    def __init__(self, function: Function, since: float) -> None:
        self.function = function
        self.since = since  # made at
        self.busy_until = since
        self.slot = -1  # place among the candidates
        self.version = 0  # of its last change: older entries of the calendar are void


class Replay:
    """One policy, one budget. `run` once."""

    def __init__(self, policy: KeepAlive, budget_mb: float, seed: int = 1) -> None:
        self._policy = policy
        self._budget = budget_mb
        self._random = random.Random(seed)
        self._warm: dict[int, _Warm] = {}
        self._list: list[_Warm] = []
        self._used = 0.0
        self._calendar: list[tuple[float, int, int, Function, bool]] = []  # (at, n, version, function, back?)
        self._n = 0
        self._versions: dict[int, int] = {}  # calls of each function
        self._result = Result()

    def run(self, calls: Calls) -> Result:
        result, policy = self._result, self._policy
        began = time.perf_counter()
        for at, function in calls:
            self._pass(at)
            policy.called(function.number, int(at * SECOND_US))
            result.calls += 1
            warm = self._warm.get(function.number)
            ready = at
            if warm is None:
                result.cold += 1
                ready += function.init_s
                warm = self._make(function, at)
            busy_from = max(warm.busy_until, at)
            warm.busy_until = max(warm.busy_until, ready + function.duration_s)
            result.idle_mb_s -= function.size_mb * max(0.0, warm.busy_until - busy_from)
            warm.version = self._versions[function.number] = self._versions.get(function.number, 0) + 1
            self._follow(policy.plan(self._idle(warm)), warm)
        self._pass(DAY_S)
        for warm in list(self._warm.values()):
            self._drop(warm, max(DAY_S, warm.busy_until))
        result.seconds = time.perf_counter() - began
        return result

    def _idle(self, warm: _Warm) -> Idle:
        function = warm.function
        since_us = int(warm.busy_until * SECOND_US)
        return Idle(function.number, since_us, function.size_mb, int(function.init_s * SECOND_US))

    def _make(self, function: Function, at: float) -> _Warm:
        self._make_room(function.size_mb, at)
        warm = self._warm[function.number] = _Warm(function, at)
        warm.slot = len(self._list)
        self._list.append(warm)
        self._used += function.size_mb
        self._result.peak_mb = max(self._result.peak_mb, self._used)
        return warm

    def _make_room(self, size_mb: float, at: float) -> None:
        while self._used + size_mb > self._budget:
            idle = [warm for warm in self._some() if warm.busy_until <= at]
            if not idle:
                return
            values = [(self._policy.value(self._idle(warm), int(at * SECOND_US)), n) for n, warm in enumerate(idle)]
            value, n = min(values)
            self._policy.evicted(self._idle(idle[n]), value)
            self._drop(idle[n], at)

    def _some(self) -> list[_Warm]:
        if len(self._list) <= CANDIDATES:
            return self._list
        return [self._list[int(self._random.random() * len(self._list))] for _ in range(CANDIDATES)]

    def _drop(self, warm: _Warm, at: float) -> None:
        function = warm.function
        del self._warm[function.number]
        last = self._list.pop()
        if last is not warm:
            self._list[warm.slot], last.slot = last, warm.slot
        self._used -= function.size_mb
        held = function.size_mb * (at - warm.since)
        self._result.held_mb_s += held
        self._result.idle_mb_s += held

    def _follow(self, plan: Plan, warm: _Warm) -> None:
        for at_us, back in (
            (plan.leave_us, False),
            (plan.back_us, True),
            (plan.until_us if plan.back_us else None, False),
        ):
            if at_us is not None and at_us < NEVER:
                self._n += 1
                entry = max(at_us / SECOND_US, warm.busy_until), self._n, warm.version, warm.function, back
                heapq.heappush(self._calendar, entry)

    def _pass(self, now: float) -> None:
        """Do what was due until now. A plan is void once another call has come."""
        while self._calendar and self._calendar[0][0] <= now:
            at, _, version, function, back = heapq.heappop(self._calendar)
            if self._versions[function.number] != version:
                continue
            warm = self._warm.get(function.number)
            if back and warm is None:
                self._make(function, at)
            elif not back and warm is not None:
                self._drop(warm, at)


def bound(calls: Calls, budget_mb: float) -> int:
    """Cold starts that no policy can go below, whatever it knows of the future (PFOO-L, Berger et al. 2018).

    Keeping a function between two calls costs size × gap. The bound takes the cheapest gaps first until they cost what
    the budget holds in a whole day, as if memory could be lent from one hour to another.
    """
    last: dict[int, float] = {}
    gaps: list[float] = []
    cold = 0
    busy = 0.0
    for at, function in calls:
        before = last.get(function.number)
        end = at + function.duration_s
        if before is None:
            cold += 1
            busy += function.size_mb * function.duration_s
        else:
            gaps.append(function.size_mb * max(0.0, at - before))
            busy += function.size_mb * max(0.0, end - max(at, before))
        last[function.number] = max(end, before or 0.0)
    rest = budget_mb * DAY_S - busy
    gaps.sort()
    for n, cost in enumerate(gaps):
        rest -= cost
        if rest < 0:
            return cold + len(gaps) - n
    return cold


class Clairvoyant:
    """Belady's rule for a replay: what is called again last goes first, by size. It knows every call of the day."""

    def __init__(self, calls: Calls) -> None:
        self._next: dict[int, list[float]] = {}
        for at, function in reversed(calls):
            self._next.setdefault(function.number, []).append(at)

    def called(self, key: object, now_us: int) -> None:
        assert isinstance(key, int)
        self._next[key].pop()

    def plan(self, idle: Idle) -> Plan:
        return Plan()

    def value(self, idle: Idle, now_us: int) -> float:
        assert isinstance(idle.key, int)
        coming = self._next[idle.key]
        return 1.0 / (idle.size_mb * (coming[-1] - now_us / SECOND_US + 1e-6)) if coming else 0.0

    def evicted(self, idle: Idle, value: float) -> None:
        pass
