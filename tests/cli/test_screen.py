"""What functions wrote, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from jiffy.cli.bill import _books
from jiffy.cli.deploy import _progress
from jiffy.cli.screen import columns, counted, printable
from jiffy.cli.status import _health

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


@pytest.mark.parametrize("many", [False, True])
def test_a_deploy_into_a_pipe_says_what_it_builds_and_what_has_ended(
    capsys: pytest.CaptureFixture[str], many: bool
) -> None:
    names = ["a", "b", "c", "d"] if many else ["a"]
    with _progress(names, quiet=False) as show:
        show("a", "deps    2 packages", False)
        show("a", "built", True)
    told = capsys.readouterr().err.splitlines()
    assert told == (["building a, b, c, d", "a: built"] if many else ["a: deps    2 packages"])


def test_status_tells_draining_hosts_from_dead_ones() -> None:
    host = {"invoker": "inv-1"}
    assert _health({"missing": [], "invokers": [host]}) == "healthy"
    assert _health({"missing": ["invoker"], "invokers": []}) == "not healthy: no invoker is alive"
    draining = _health({"missing": ["invoker", "builder"], "invokers": [host]})
    assert draining == "not healthy: no builder is alive; all invokers are draining (jiffy drain inv-1 --undo)"


def test_words_for_people() -> None:
    assert (counted(1, "call"), counted(2000, "call")) == ("1 call", "2,000 calls")
    assert [_books(versions) for versions in ([1], [1, 2], [1, 2, 3])] == [
        "price book 1",
        "price books 1 and 2",
        "price books 1, 2 and 3",
    ]
    assert columns(("A", "B"), []) == ""
    assert columns(("A", "B"), [(True, False)]).splitlines()[1] == "yes  no"
