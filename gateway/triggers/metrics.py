"""What /metrics says of triggers. Counters are this gateway's own."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.triggers.trigger import TriggerId
from jiffy.contract.access import qualified

SERIES_MAX = 20_000  # as in gateway/metrics.py


class TriggerMetrics:
    """Counts what triggers did, and how late."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str, str], int] = {}  # (function, trigger, kind) → how often
        self._late_ms: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], int] = {}

    def count(self, key: TriggerId, kind: str, n: int = 1) -> None:
        series = (qualified(key.tenant, key.function), key.name, kind)
        if series not in self._events and len(self._events) >= SERIES_MAX:
            self._events, self._late_ms, self._waiting = {}, {}, {}
        self._events[series] = self._events.get(series, 0) + n

    def late(self, key: TriggerId, ms: int) -> None:
        """How long after its time the last event of a trigger became a call."""
        self._late_ms[qualified(key.tenant, key.function), key.name] = ms

    def waiting(self, key: TriggerId, messages: int) -> None:
        """How long a trigger's queue is."""
        self._waiting[qualified(key.tenant, key.function), key.name] = messages

    def lines(self) -> Iterator[str]:
        yield "# HELP jiffy_trigger_events_total What triggers did: fired, skipped, failed, dead, refused."
        yield "# TYPE jiffy_trigger_events_total counter"
        for (function, name, kind), n in sorted(self._events.items()):
            yield f'jiffy_trigger_events_total{{function="{function}",trigger="{name}",event="{kind}"}} {n}'
        yield "# HELP jiffy_trigger_lag_seconds From the time of a trigger's last event to its call."
        yield "# TYPE jiffy_trigger_lag_seconds gauge"
        for (function, name), ms in sorted(self._late_ms.items()):
            yield f'jiffy_trigger_lag_seconds{{function="{function}",trigger="{name}"}} {ms / 1000:.3f}'
        yield "# HELP jiffy_trigger_waiting Messages that wait in a trigger's queue, those that are out included."
        yield "# TYPE jiffy_trigger_waiting gauge"
        for (function, name), n in sorted(self._waiting.items()):
            yield f'jiffy_trigger_waiting{{function="{function}",trigger="{name}"}} {n}'
