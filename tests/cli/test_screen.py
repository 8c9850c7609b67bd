"""What functions wrote, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from jiffy.cli.screen import printable

HOSTILE = "\x1b]0;title\x07\x1b[2Jseen\x9b31m\u202ereversed\r\x00 é漢\tok\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é 漢 🙂\tand\nlines", "plain, é 漢 🙂\tand\nlines"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),
        ("\r", r"\r"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_terminal_gets_it_harmless_and_a_pipe_as_it_is() -> None:
    code = f"from jiffy.cli.screen import say; say({HOSTILE!r}); say({HOSTILE!r}, err=True)"
    command = [sys.executable, "-X", "utf8", "-c", code]
    ours, theirs = pty.openpty()
    try:
        piped = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=30, check=True)
        seen = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\u202ereversed\r\x00 é漢\tok\n" in piped.stdout.decode()
    assert b"\x1b" not in seen and b"\\x1b[2Jseen\\x9b31m\\u202ereversed\\r\\x00" in seen
