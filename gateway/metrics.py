"""What /metrics says, counted in plain dictionaries: one call costs one increment and one look into a short table.

Text format: Prometheus exposition format 0.0.4. Counters are this gateway's own; a scraper adds gateways up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from jiffy.contract.histogram import BUCKETS_US
from jiffy.contract.messages import Heartbeat

_SERIES_MAX = 20_000  # functions come and go; forget all rather than grow without end (counters may restart)


class Metrics:
    """Counters of calls."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], int] = {}  # (function, outcome) → calls
        self._cold: dict[str, int] = {}
        self._durations: dict[str, tuple[list[int], list[int]]] = {}  # function → per bucket, [sum in µs]

    def count(self, function: str, outcome: str) -> None:
        """One call was queued for nobody to wait for, or ended without an answer (then its error's code)."""
        key = (function, outcome)
        self._calls[key] = self._calls.get(key, 0) + 1

    def observe(self, function: str, outcome: str, duration_us: int, cold: bool) -> None:
        """One call was answered."""
        self.count(function, outcome)
        if cold:
            self._cold[function] = self._cold.get(function, 0) + 1
        durations = self._durations.get(function)
        if durations is None:
            if len(self._durations) >= _SERIES_MAX:
                self._calls, self._cold, self._durations = {(function, outcome): 1}, {}, {}
            durations = self._durations[function] = ([0] * (len(BUCKETS_US) + 1), [0])
        durations[0][bisect_left(BUCKETS_US, duration_us)] += 1
        durations[1][0] += duration_us

    def text(self, *, in_flight: int, queued: int, invokers: int, functions: int) -> str:
        return "\n".join([*self._lines(in_flight, queued, invokers, functions), ""])

    def _lines(self, in_flight: int, queued: int, invokers: int, functions: int) -> Iterator[str]:
        yield "# HELP jiffy_calls_total Calls answered by this gateway."
        yield "# TYPE jiffy_calls_total counter"
        for (function, outcome), n in sorted(self._calls.items()):
            yield f'jiffy_calls_total{{function="{function}",outcome="{outcome}"}} {n}'
        yield "# HELP jiffy_cold_calls_total Calls that waited for a new instance."
        yield "# TYPE jiffy_cold_calls_total counter"
        for function, n in sorted(self._cold.items()):
            yield f'jiffy_cold_calls_total{{function="{function}"}} {n}'
        yield "# HELP jiffy_call_duration_seconds Time spent in the handler."
        yield "# TYPE jiffy_call_duration_seconds histogram"
        for function, (counts, (total_us,)) in sorted(self._durations.items()):
            yield from _histogram(function, counts, total_us)
        for name, meaning, value in (
            ("in_flight", "Calls that this gateway waits for.", in_flight),
            ("queued", "Calls on live invokers' streams, running ones included.", queued),
            ("invokers", "Live invokers.", invokers),
            ("functions", "Functions in service.", functions),
        ):
            yield f"# HELP jiffy_{name} {meaning}"
            yield f"# TYPE jiffy_{name} gauge"
            yield f"jiffy_{name} {value}"


def _histogram(function: str, counts: list[int], total_us: int) -> Iterator[str]:
    yield from _series("jiffy_call_duration_seconds", f'function="{function}"', counts, total_us)


def _series(name: str, labels: str, counts: Sequence[int], total_us: int) -> Iterator[str]:
    below = 0
    for bound, n in zip((*(f"{us / 1e6:g}" for us in BUCKETS_US), "+Inf"), counts, strict=True):
        below += n
        yield f'{name}_bucket{{{labels},le="{bound}"}} {below}'
    yield f"{name}_sum{{{labels}}} {total_us / 1e6:.6f}"
    yield f"{name}_count{{{labels}}} {below}"


def invoker_lines(beats: Iterable[Heartbeat]) -> Iterator[str]:
    """What live invokers say of themselves, as of their last heartbeat; counted since each of them started."""
    beats = list(beats)
    yield from _invoker_gauges(beats)
    yield "# HELP jiffy_pool_decisions_total What the pool decided."
    yield "# TYPE jiffy_pool_decisions_total counter"
    for beat in beats:
        for decision, n in sorted(beat.decisions.items()):
            yield f'jiffy_pool_decisions_total{{invoker="{beat.invoker}",decision="{decision}"}} {n}'
    yield "# HELP jiffy_queue_wait_seconds How long calls waited for an instance, cold starts included."
    yield "# TYPE jiffy_queue_wait_seconds histogram"
    yield from _invoker_histograms(beats, "queue_wait", "jiffy_queue_wait_seconds", "")
    yield "# HELP jiffy_cold_start_seconds Cold starts by phase."
    yield "# TYPE jiffy_cold_start_seconds histogram"
    for phase in ("stem_wait", "specialise", "import", "fork"):
        yield from _invoker_histograms(beats, f"cold_{phase}", "jiffy_cold_start_seconds", f',phase="{phase}"')


def _invoker_histograms(beats: list[Heartbeat], kind: str, name: str, labels: str) -> Iterator[str]:
    for beat in beats:
        counts, total_us = beat.histograms.get(kind, ((), 0))
        if len(counts) == len(BUCKETS_US) + 1:  # another release may count by other bounds
            yield from _series(name, f'invoker="{beat.invoker}"{labels}', counts, total_us)


def _invoker_gauges(beats: list[Heartbeat]) -> Iterator[str]:
    yield "# HELP jiffy_stems Started sandboxes without a function."
    yield "# TYPE jiffy_stems gauge"
    for beat in beats:
        for runtime, ready in sorted(beat.stems.items()):
            yield f'jiffy_stems{{invoker="{beat.invoker}",runtime="{runtime}",state="ready"}} {ready}'
        for runtime, wanted in sorted(beat.stems_wanted.items()):
            yield f'jiffy_stems{{invoker="{beat.invoker}",runtime="{runtime}",state="wanted"}} {wanted}'
    yield "# HELP jiffy_instances Instances by state."
    yield "# TYPE jiffy_instances gauge"
    for beat in beats:
        for state in ("idle", "running", "frozen"):
            count = sum(getattr(function, state) for function in beat.functions)
            yield f'jiffy_instances{{invoker="{beat.invoker}",state="{state}"}} {count}'
