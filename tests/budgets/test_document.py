"""docs/budgets.md's example is run on a whole platform; JIFFY_WRITE_DOCS=1 writes what the commands print into it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.platforms import platform

pytestmark = pytest.mark.redis
ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "budgets.md"


def test_the_example_in_the_document(data_dir: Path) -> None:
    text = PATH.read_text()
    example = re.search(r"```console\n(.*?)```", text, re.S)
    assert example is not None
    commands = [line for line in example[1].splitlines() if line.startswith("$ ")]
    printed = []
    with platform(data_dir, "--sandbox", "bwrap") as up:
        up.jiffy("deploy", str(ROOT / "examples" / "hello"))
        for n, line in enumerate(commands):
            refused = n == 3  # the third call
            done = up.jiffy(*shlex.split(line)[2:], status=int(refused))
            printed.append(f"{line}\n{done.stdout}{done.stderr if refused else ''}")
        assert "Budget two-calls (hello, per day) is used up; calls are refused until" in up.jiffy("bill").stdout
        assert "Budget two-calls" in up.jiffy("status").stdout
        assert up.json("budget", "show", "two-calls")["state"] == "used up"
        assert up.jiffy("budget", "remove", "two-calls").stdout == "removed two-calls\n"
        assert up.json("budget", "list") == {"budgets": []}
        up.jiffy("invoke", "hello")
        up.jiffy("budget", "set", "x", "--limit", "no", "--per", "day", status=1)
        quota = up.json("quota", "set", "busy", "--rate", "0.001", "--burst", "1", "--function", "hello")
        assert quota == {"name": "busy", "function": "hello", "rate": 0.001, "burst": 1}
        up.jiffy("invoke", "hello")
        assert 'quota "busy" (function hello)' in up.jiffy("invoke", "hello", status=1).stderr
        assert "0.001" in up.jiffy("quota", "list").stdout and "busy" in up.jiffy("quota", "show", "busy").stdout
        assert up.jiffy("quota", "remove", "busy").stdout == "removed busy\n"
    found = re.sub(r"\d{4}-\d\d-\d\dT00", "2026-11-25T00", "".join(printed))
    found = re.sub(r'"python": "[\d.]+"', '"python": "3.11.7"', found)
    if os.environ.get("JIFFY_WRITE_DOCS"):
        PATH.write_text(text.replace(example[1], found))
    else:
        assert found == example[1]
