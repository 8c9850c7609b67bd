"""Asynchronous calls from the command line, on a whole platform: invoke, result, cancel, dlq, audit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jiffy.contract.spec import KEYS
from tests.platforms import Up, platform

TOML = """
[functions.flaky]
handler = "flaky:handler"
retries = 1
backoff_s = 0
on_failure = "function:alarm"

[functions.alarm]
handler = "flaky:alarm"
"""
SOURCE = """
def handler(event, context):
    if event.get("fail"):
        raise ValueError("no such order")
    return event


def alarm(event, context):
    return event["requestContext"]["condition"]
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    base = tmp_path_factory.mktemp("async")
    for made in (base, base.parent):  # pytest makes its folders 0700
        made.chmod(0o755)
    with platform(base / "data", "--sandbox", "bwrap") as up:
        up.deploy(base / "source", TOML, flaky__py=SOURCE)
        yield up


def invoke(up: Up, event: str, *options: str) -> str:
    return up.jiffy("invoke", "flaky", event, "--async", *options).stdout.strip()


def test_a_result_is_there_when_it_is_waited_for(up: Up) -> None:
    invocation = invoke(up, '{"n": 1}')
    told = up.jiffy("result", "--wait", invocation)
    assert told.stdout == '{\n  "n": 1\n}\n' and told.stderr == "done after 1 attempt\n"
    assert up.json("result", invocation)["state"] == "done"
    assert up.json("invoke", "flaky", '{"n": 2}', "--async", "--wait")["result"] == {"n": 2}


def test_show_has_every_setting_under_its_own_name(up: Up) -> None:
    shown = dict(line.split(maxsplit=1) for line in up.jiffy("show", "flaky").stdout.split("\n\n")[0].splitlines())
    assert (shown["backoff_s"], shown["on_failure"], shown["memory_mb"]) == ("0", "function:alarm", "128")
    assert {*KEYS} <= {*shown}


def test_what_waits_can_be_taken_back(up: Up) -> None:
    invocation = invoke(up, "{}", "--delay", "60")
    assert "queued until" in up.jiffy("result", invocation, status=3).stderr
    assert up.jiffy("cancel", invocation).stdout == f"cancelled {invocation}\n"
    assert "cancelled after 0 attempts" in up.jiffy("result", invocation, status=1).stderr
    assert "has ended: it is cancelled" in up.jiffy("cancel", invocation, status=1).stderr


def test_the_dead_are_listed_shown_replayed_and_purged(up: Up) -> None:
    invocation = invoke(up, '{"fail": true}')
    told = up.jiffy("result", "--wait", invocation, status=1)
    assert "ValueError: no such order" in told.stderr and "dead (retries_exhausted) after 2 attempts" in told.stderr
    listed = up.jiffy("dlq", "list", "--function", "flaky").stdout
    assert invocation in listed and "no such order" in listed
    shown = up.jiffy("dlq", "show", invocation).stdout
    assert '"fail": true' in shown and "retries_exhausted" in shown
    assert up.jiffy("dlq", "replay", invocation).stdout == "replayed 1\n"
    assert up.json("result", "--wait", invocation, status=1)["attempts"] == 4
    assert "--all" in up.jiffy("dlq", "purge", status=2).stderr
    assert up.json("dlq", "purge", "--function", "flaky", "--yes") == {"purged": 1}
    assert "no dead letters" in up.jiffy("dlq", "list").stderr


def test_a_key_is_run_once(up: Up) -> None:
    first, again = (up.json("invoke", "flaky", '{"n": 3}', "--key", "k") for _ in range(2))
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert first == again
    assert "came before with another request" in up.jiffy("invoke", "flaky", "{}", "--key", "k", status=1).stderr


def test_the_books_balance(up: Up) -> None:
    assert up.jiffy("callback-secret").stdout.startswith("whsec_")
    told = up.jiffy("audit")
    assert told.stderr == "the books balance\n" and "WRONG" not in told.stdout
    assert up.json("audit")["balanced"] is True
