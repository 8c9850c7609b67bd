"""What one attempt printed, cut into log entries.

It holds the attempt to limits.LOG_ATTEMPT_MAX_BYTES, counts what it drops, and splits at LOG_CHUNK_MAX_BYTES. The
first entry of an attempt is marked, the last one carries the report. Where the bytes come from is execute.py's story.
"""

from __future__ import annotations

from collections.abc import Iterator

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

    def note(self, line: bytes) -> None:
        """A line of ours, on a line of its own; there is always room for it."""
        broken = self._pieces and not self._pieces[-1].endswith(b"\n")
        self._pieces.append(b"\n%b\n" % line if broken else line + b"\n")

    def flush(self, at_ms: int) -> tuple[bytes, ...]:
        """Packed entries of the whole lines written since the last flush; the attempt goes on."""
        text = b"".join(self._pieces)
        end = text.rfind(b"\n") + 1 or (len(text) if len(text) >= limits.LOG_CHUNK_MAX_BYTES else 0)
        self._pieces = [text[end:]] if end < len(text) else []
        return tuple(pack(self._entry(at_ms, piece)) for piece in _chunks(text[:end]))

    def close(self, at_ms: int, report: Report) -> tuple[bytes, ...]:
        """The packed rest, report included."""
        if not self._pieces:  # most calls print nothing
            return (pack(self._entry(at_ms, b"", report)),)
        *chunks, last = _chunks(b"".join(self._pieces))
        return (*(pack(self._entry(at_ms, text)) for text in chunks), pack(self._entry(at_ms, last, report)))

    def _entry(self, at_ms: int, text: bytes, report: Report | None = None) -> LogEntry:
        first, self._first = self._first, False
        dropped = self._dropped if report else 0
        return LogEntry(self._invocation, self._attempt, self._revision, at_ms, first, text, dropped, report)


def _chunks(text: bytes) -> Iterator[bytes]:
    """Pieces of at most LOG_CHUNK_MAX_BYTES that end where a line ends, if any does."""
    at = 0
    while at < len(text):
        end = min(len(text), at + limits.LOG_CHUNK_MAX_BYTES)
        if end < len(text):
            end = text.rfind(b"\n", at, end) + 1 or end
        yield text[at:end]
        at = end
