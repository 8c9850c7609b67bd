"""A day of calls, drawn from the published curves of the Azure Functions trace of 2019 (Shahrad et al., ATC 2020).

Each function gets calls per day, a mean duration, a memory size and a way of being called: by a timer (evenly), or
with gaps whose coefficient of variation is drawn from the curve, and busier by day than by night. The same seed gives
the same day. The curves lie beside this module (azure2019.json: CC-BY, see there).
"""

from __future__ import annotations

import heapq
import json
import math
import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAY_S = 86_400.0
STEADY = 20_000  # calls a day: a function so busy is warm all day under every policy, and is only counted
TIMERS = 0.16  # share of functions that a timer calls
BY_NIGHT = 0.6  # what is left of the rate at its lowest, against 1.0 on average


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the day. `gaps` are drawn when it is replayed."""

    number: int
    calls: float  # a day
    duration_s: float
    size_mb: float
    variation: float  # of the gaps; 0: a timer
    init_s: float


class Day:
    """`functions` functions, drawn with `seed`."""

    def __init__(self, functions: int, seed: int) -> None:
        self._curves: dict[str, Any] = json.loads((Path(__file__).parent / "azure2019.json").read_text())
        self._random = random.Random(seed)
        self.functions = [self._function(n) for n in range(functions)]

    @property
    def steady_calls(self) -> int:
        """Calls of functions that no policy ever finds cold but once."""
        return sum(int(f.calls) for f in self.functions if f.calls > STEADY)

    def arrivals(self) -> list[tuple[float, Function]]:
        """(second, function) of every call of a function that is not steady, in order."""
        streams = [self._calls(f) for f in self.functions if f.calls <= STEADY]
        return list(heapq.merge(*streams, key=lambda call: call[0]))

    def _function(self, number: int) -> Function:
        draw = self._random
        timer = draw.random() < TIMERS
        calls = self._from("invocations_per_day_per_function")
        if timer:  # timers fire every so many minutes
            calls = DAY_S / (60 * max(1, round(1440 / max(calls, 1.0))))
        duration = math.exp(draw.gauss(-0.04, 2.2))  # the file's own fit
        return Function(
            number,
            calls,
            min(duration, 300.0),
            self._from("avg_memory_mb_per_app"),
            0.0 if timer else self._from("iat_cv_no_timer_apps"),
            0.1 + 0.9 * draw.random(),
        )

    def _from(self, curve: str) -> float:
        """A draw from a curve [[value, share below], …], straight between its points on a logarithmic axis."""
        points: list[list[float]] = self._curves[curve]
        share = self._random.uniform(0.0, points[-1][1])
        n = bisect_left([p[1] for p in points], share)
        if n == 0:
            return points[0][0]
        (low, a), (high, b) = points[n - 1], points[n]
        return math.exp(math.log(low) + (math.log(high) - math.log(low)) * (share - a) / (b - a))

    def _calls(self, function: Function) -> Iterator[tuple[float, Function]]:
        draw, mean = random.Random(self._random.random()), DAY_S / function.calls
        at = draw.uniform(0, mean)
        while at < DAY_S:
            yield at, function
            if function.variation == 0.0:
                at += mean
            else:
                busy = 1.0 + (1.0 - BY_NIGHT) * math.sin(2 * math.pi * (at / DAY_S - 0.375))
                at += max(_gap(draw, mean, function.variation) / busy, 0.001)


def _gap(draw: random.Random, mean: float, variation: float) -> float:
    """A gamma-distributed gap: even below a variation of 1, Poisson at 1, bursts and silences above."""
    shape = 1.0 / (variation * variation)
    return draw.gammavariate(shape, mean / shape)
