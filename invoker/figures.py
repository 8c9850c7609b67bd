"""What the pool counts about itself since the process began: decisions, waits, and where cold starts spend their time.

It travels with every heartbeat (about 1 KB), and gateways show it in /metrics: a scraper then needs one target, and an
invoker no port. Nothing here is counted for a call that finds an idle instance: what those are follows from the rest.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from jiffy.contract.histogram import Histogram, Packed


class Phases(NamedTuple):
    """Where one cold start spent its time, in microseconds."""

    stem_us: int  # until it had a stem
    specialise_us: int  # limits, folders and the way to the agent
    import_us: int  # the function's own
    fork_us: int


class Figures:
    """See the module."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()  # "fork", "evict" … → how often
        self._wait = Histogram()
        self._phases = {name: Histogram() for name in ("stem_wait", "specialise", "import", "fork")}

    def waited(self, us: int) -> None:
        """A call has begun that had to wait."""
        self._wait.observe(us)

    def opened(self, phases: Phases) -> None:
        """A cold start has succeeded."""
        for histogram, us in zip(self._phases.values(), phases, strict=True):
            histogram.observe(us)

    def packed(self, begun: int) -> dict[str, Packed]:
        """Histogram by name, where `begun` calls have begun in all."""
        waited = sum(self._wait.counts)
        phases = {f"cold_{name}": histogram.packed() for name, histogram in self._phases.items()}
        return {"queue_wait": self._wait.packed(max(0, begun - waited)), **phases}
