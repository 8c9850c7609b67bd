"""What an attempt printed, cut into log entries."""

from __future__ import annotations

from invoker.logbook import Logbook
from jiffy.contract import limits
from jiffy.contract.messages import LogEntry
from jiffy.contract.wire import unpack


def test_a_line_of_ours_has_room_and_a_line_of_its_own() -> None:
    book = Logbook("i", 1, 1)
    book.write(b"x" * limits.LOG_ATTEMPT_MAX_BYTES)
    book.note(b"[ERROR] why")
    entries = [unpack(LogEntry, packed) for packed in book.close(0, ("timeout", 1, 100, 128, 0, 0))]
    assert b"".join(entry.text for entry in entries).endswith(b"x\n[ERROR] why\n")


def test_a_log_is_cut_into_entries_and_bounded() -> None:
    book = Logbook("i", 1, 1)
    book.write(b"x" * limits.LOG_ATTEMPT_MAX_BYTES)
    book.write(b"y" * 10, 5)
    entries = [unpack(LogEntry, packed) for packed in book.close(0, ("ok", 1, 100, 128, 0, 0))]
    assert b"".join(entry.text for entry in entries) == b"x" * limits.LOG_ATTEMPT_MAX_BYTES
    assert all(len(entry.text) <= limits.LOG_CHUNK_MAX_BYTES for entry in entries)
    assert [entry.first for entry in entries] == [True, False, False, False]
    assert [bool(entry.report) for entry in entries] == [False, False, False, True]
    assert entries[-1].dropped_bytes == 15
