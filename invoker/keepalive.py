"""How long an idle sandbox stays, and which goes first when memory is short: several answers to choose from. Pure.

A policy learns from calls (`called`), plans what becomes of a sandbox that falls idle (`plan`), and says what an idle
one is worth (`value`): under pressure the lowest goes first. It knows no sandbox and no clock. pool.py asks the policy
of its host; tests/benchmarks/keepalive replays a day against each, which is why hit-density is the default.

All times are microseconds on one clock; a key names a function's revision. A policy remembers KEYS_MAX functions, the
least recently called ones are forgotten.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from itertools import pairwise
from typing import NamedTuple, Protocol

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
NEVER = 2**63
KEYS_MAX = 20_000


class Idle(NamedTuple):
    """An idle sandbox, as a policy sees it."""

    key: Hashable
    since_us: int  # its last call's end
    size_mb: float
    init_us: int  # what making it again would cost


class Plan(NamedTuple):
    """What becomes of a sandbox that nobody calls again and that is in nobody's way."""

    leave_us: int = NEVER  # when it goes
    back_us: int | None = None  # when it is made again without a call; None: not before it is called
    until_us: int = NEVER  # when it goes again


class KeepAlive(Protocol):
    """What the pool asks. `called` comes first for every key."""

    def called(self, key: Hashable, now_us: int) -> None:
        """A call has come."""

    def plan(self, idle: Idle) -> Plan:
        """Asked when it falls idle."""

    def value(self, idle: Idle, now_us: int) -> float:
        """What keeping it is worth: where room is short, the lowest value goes."""

    def evicted(self, idle: Idle, value: float) -> None:
        """It went because room was short."""


class _Table:
    """State by key, of the KEYS_MAX that were called last."""

    def __init__(self, make: Callable[[], _Gaps]) -> None:
        self._make = make
        self._states: dict[Hashable, _Gaps] = {}

    def touch(self, key: Hashable) -> _Gaps:
        state = self._states.pop(key, None)
        if state is None:
            state = self._make()
            if len(self._states) >= KEYS_MAX:
                del self._states[next(iter(self._states))]
        self._states[key] = state
        return state

    def get(self, key: Hashable) -> _Gaps:
        return self._states.get(key) or self._make()


class _Gaps:
    """How often, and after which gaps, one function is called. The histogram's bounds are the policy's."""

    __slots__ = ("bounds", "calls", "counts", "last_us", "squares", "total", "window")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0  # gaps seen
        self.squares = 0  # sum of the squared counts
        self.window: tuple[int, int] | None = None  # what a policy made of it; None: look again
        self.calls = 0
        self.last_us = -1

    def called(self, now_us: int) -> None:
        self.calls += 1
        if self.last_us >= 0:
            bin_ = bisect_right(self.bounds, now_us - self.last_us)
            self.squares += 2 * self.counts[bin_] + 1
            self.counts[bin_] += 1
            self.total += 1
            if self.total & (self.total - 1) == 0 or self.total % 64 == 0:
                self.window = None
        self.last_us = now_us

    def quantile(self, share: float) -> int:
        """The upper bound of the bin in which `share` of the gaps end; NEVER beyond the last."""
        rest = share * self.total
        for bound, count in zip(self.bounds, self.counts, strict=False):
            rest -= count
            if rest <= 0:
                return bound
        return NEVER


class FixedTime:
    """Every sandbox stays for the same time: what AWS, Azure and OpenWhisk are known for. Under pressure, as LRU."""

    def __init__(self, keep_us: int = 10 * MINUTE_US) -> None:
        self._keep_us = keep_us

    def called(self, key: Hashable, now_us: int) -> None:
        pass

    def plan(self, idle: Idle) -> Plan:
        return Plan(idle.since_us + self._keep_us)

    def value(self, idle: Idle, now_us: int) -> float:
        return float(idle.since_us)

    def evicted(self, idle: Idle, value: float) -> None:
        pass


class LeastRecentlyUsed(FixedTime):
    """All stay while there is room; the one that was used longest ago goes first."""

    def plan(self, idle: Idle) -> Plan:
        return Plan()


class GreedyDual(LeastRecentlyUsed):
    """FaasCache (Fuerst and Sharma, ASPLOS 2021): clock + calls × cost of a start / size.

    The clock is the value of the last victim, and the calls are those since the function was last evicted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clock = 0.0
        self._calls = _Table(lambda: _Gaps(()))
        self._stamps: dict[Hashable, float] = {}  # the clock at the last call, of those that are warm

    def called(self, key: Hashable, now_us: int) -> None:
        self._calls.touch(key).called(now_us)
        self._stamps[key] = self._clock

    def value(self, idle: Idle, now_us: int) -> float:
        calls = self._calls.get(idle.key).calls
        return self._stamps.get(idle.key, 0.0) + calls * (idle.init_us / SECOND_US) / idle.size_mb

    def evicted(self, idle: Idle, value: float) -> None:
        self._clock = max(self._clock, value)
        self._calls.get(idle.key).calls = 0
        self._stamps.pop(idle.key, None)


class HybridHistogram(LeastRecentlyUsed):
    """Serverless in the Wild (Shahrad et al., ATC 2020): gone at once, back before the next call is likely, and then
    kept until it is unlikely. Minutes' bins over four hours; a function whose gaps tell too little stays four hours.

    Left out: the paper's ARIMA forecast for functions whose gaps are mostly longer than four hours.
    """

    RANGE_MIN = 240
    MARGIN = 0.10  # earlier back, and longer kept, than the histogram says
    SEEN_MIN = 5  # gaps, before they are believed

    def __init__(self) -> None:
        super().__init__()
        bounds = tuple(minute * MINUTE_US for minute in range(1, self.RANGE_MIN + 1))
        self._gaps = _Table(lambda: _Gaps(bounds))

    def called(self, key: Hashable, now_us: int) -> None:
        self._gaps.touch(key).called(now_us)

    def _window(self, key: Hashable) -> tuple[int, int]:
        """(away for so long, then kept until so long) after a call."""
        gaps = self._gaps.get(key)
        if gaps.window is None:
            gaps.window = self._look(gaps)
        return gaps.window

    def _look(self, gaps: _Gaps) -> tuple[int, int]:
        outside = gaps.counts[-1]
        if gaps.total < self.SEEN_MIN or outside * 2 > gaps.total or not self._narrow(gaps):
            return 0, self.RANGE_MIN * MINUTE_US
        head, tail = gaps.quantile(0.05) - MINUTE_US, gaps.quantile(0.99)
        return int(head * (1 - self.MARGIN)), int(min(tail, self.RANGE_MIN * MINUTE_US) * (1 + self.MARGIN))

    @staticmethod
    def _narrow(gaps: _Gaps) -> bool:
        """Are the bins' counts uneven enough to say something? The paper's measure: their coefficient of variation."""
        n = len(gaps.counts)
        mean = gaps.total / n
        return gaps.squares / n - mean * mean > 4 * mean * mean

    def plan(self, idle: Idle) -> Plan:
        away, until = self._window(idle.key)
        if away < MINUTE_US:
            return Plan(idle.since_us + until)
        return Plan(idle.since_us, idle.since_us + away, idle.since_us + until)


class HitDensity(LeastRecentlyUsed):
    """The default: hits per megabyte and second that keeping it promises (after LHD, Beckmann et al., NSDI 2018).

    Each function's gaps are counted in bins that grow by half. For one that has been idle for an `age`, the promise is
    the best over all horizons: the share of its longer gaps that end within it, by the memory held until then.
    A rare but regular function is worth little right after its call and much before the next; a bursty one the reverse.
    What was seen little is mixed with what is usual for all functions together.
    """

    PRIOR = 0.5  # as many gaps of the usual kind are added to a function's own
    FIRST_US, GROWTH, BINS = 2 * SECOND_US, 1.5, 28  # 2 s to 32 h

    def __init__(self) -> None:
        super().__init__()
        bounds = [self.FIRST_US]
        while len(bounds) < self.BINS:
            bounds.append(int(bounds[-1] * self.GROWTH))
        self._bounds = tuple(bounds)
        self._middles = (self.FIRST_US // 2, *((a + b) // 2 for a, b in pairwise(bounds)))
        self._gaps = _Table(lambda: _Gaps(self._bounds))
        self._all = [0.0] * (self.BINS + 1)  # of every function alike, so that the busiest do not speak for all
        self._seen = 0.0

    def called(self, key: Hashable, now_us: int) -> None:
        gaps = self._gaps.touch(key)
        if gaps.last_us >= 0:
            bin_ = bisect_right(self._bounds, now_us - gaps.last_us)
            weight = 1.0 / (gaps.total + 1)
            self._all[bin_] += weight
            self._seen += weight
        gaps.called(now_us)

    def value(self, idle: Idle, now_us: int) -> float:
        gaps = self._gaps.get(idle.key)
        age = max(0, now_us - gaps.last_us)  # gaps are from call to call
        usual = self.PRIOR / self._seen if self._seen else 0.0
        first = bisect_right(self._bounds, age)
        alive = sum(gaps.counts[first:]) + usual * sum(self._all[first:])
        if alive <= 0.0:
            return 0.0
        best = hits = held = 0.0
        for n in range(first, self.BINS):
            count = gaps.counts[n] + usual * self._all[n]
            span = max(self._middles[n] - age, SECOND_US)
            hits += count
            held += count * span
            density = hits / (held + (alive - hits) * max(self._bounds[n] - age, SECOND_US))
            best = max(best, density)
        return best * SECOND_US / idle.size_mb


POLICIES: dict[str, Callable[[], KeepAlive]] = {
    "fixed": FixedTime,
    "lru": LeastRecentlyUsed,
    "greedy-dual": GreedyDual,
    "hybrid-histogram": HybridHistogram,
    "hit-density": HitDensity,
}
DEFAULT = "hit-density"
