"""What one attempt printed, cut into log entries.

It holds the attempt to limits.LOG_ATTEMPT_MAX_BYTES, counts what it drops, and splits at LOG_CHUNK_MAX_BYTES. The
first entry of an attempt is marked, the last one carries the report. Where the bytes come from is execute.py's story.
"""

from __future__ import annotations

from jiffy.contract import limits
from jiffy.contract.messages import LogEntry
from jiffy.contract.wire import pack

Report = tuple[str, int, int, int, int, int]  # see LogEntry.report


class Logbook:
    """One attempt's."""

    __slots__ = ("_attempt", "_dropped", "_first", "_invocation", "_kept", "_pieces", "_revision")

    def __init__(self, invocation: str, attempt: int, revision: int) -> None:
        self._invocation = invocation
        self._attempt = attempt
        self._revision = revision
        self._pieces: list[bytes] = []
        self._kept = 0
        self._dropped = 0
        self._first = True

    def write(self, text: bytes, lost_bytes: int = 0) -> None:
        """`lost_bytes` were printed after `text`, and lost."""
        self._dropped += lost_bytes
        room = limits.LOG_ATTEMPT_MAX_BYTES - self._kept
        if len(text) > room:
            self._dropped += len(text) - room
            text = text[:room]
        if text:
            self._kept += len(text)
            self._pieces.append(text)

    def flush(self, at_ms: int) -> tuple[bytes, ...]:
        """Packed entries of what was written since the last flush; the attempt goes on."""
        if not self._pieces:
            return ()
        return tuple(pack(self._entry(at_ms, text)) for text in self._take())

    def close(self, at_ms: int, report: Report) -> tuple[bytes, ...]:
        """The packed rest, report included."""
        if not self._pieces:  # most calls print nothing
            return (pack(self._entry(at_ms, b"", report)),)
        *chunks, last = self._take()
        return (*(pack(self._entry(at_ms, text)) for text in chunks), pack(self._entry(at_ms, last, report)))

    def _take(self) -> list[bytes]:
        text, self._pieces = b"".join(self._pieces), []
        size = limits.LOG_CHUNK_MAX_BYTES
        return [text[at : at + size] for at in range(0, len(text), size)]

    def _entry(self, at_ms: int, text: bytes, report: Report | None = None) -> LogEntry:
        first, self._first = self._first, False
        dropped = self._dropped if report else 0
        return LogEntry(self._invocation, self._attempt, self._revision, at_ms, first, text, dropped, report)
