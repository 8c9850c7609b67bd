"""What a queue's consumer has to tell, gathered and written once a second: a call must not cost a write of its own."""

from __future__ import annotations

from collections import Counter

from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.store import LogLine, TriggerStore
from gateway.triggers.trigger import TriggerId

LINES_MAX = 50  # of one second; more would push all else out of the log


class Notes:
    """One trigger's. Successful calls of a second become one line of its log."""

    def __init__(self, key: TriggerId, store: TriggerStore, metrics: TriggerMetrics) -> None:
        self._key = key
        self._store = store
        self._metrics = metrics
        self._counts: Counter[str] = Counter()
        self._lines: list[LogLine] = []
        self._fields: dict[str, int | str] = {}
        self._fired = ""

    def note(self, kind: str, invocation: str, text: str, count: int) -> None:
        """`count` events of a kind: fired, failed, dead."""
        self._metrics.count(self._key, kind, count)
        self._counts[kind] += count
        if kind == "fired":
            self._fired = invocation
        elif len(self._lines) < LINES_MAX:
            self._lines.append(LogLine(0, kind, invocation, _written(text)))

    def state(self, **fields: int | str) -> None:
        """Fields of the trigger's state: lag, error."""
        self._fields |= {name: _written(value) if isinstance(value, str) else value for name, value in fields.items()}

    async def write(self, now_ms: int) -> None:
        """Write down what has gathered. Raises Unavailable, and then has lost it."""
        counts, lines, fields, fired = self._counts, self._lines, self._fields, self._fired
        self._counts, self._lines, self._fields, self._fired = Counter(), [], {}, ""
        if counts["fired"]:
            lines.append(LogLine(0, "fired", fired, f"{counts['fired']} calls up to this one"))
            fields["last"] = now_ms
        if counts or lines or fields:
            await self._store.write(self._key, {k: n for k, n in counts.items() if n}, fields, lines)


def _written(text: str) -> str:
    """What servers and functions of others said may hold what can't be written."""
    return text.encode("utf-8", "replace").decode()
