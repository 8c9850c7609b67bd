"""When a process is started again, and that none outlives its supervisor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jiffy import process
from jiffy.process import how, pause


def test_the_first_death_is_mended_at_once_and_each_next_one_takes_longer() -> None:
    deaths: list[float] = []
    waits = []
    for n in range(process.DEATHS_MAX):
        deaths.append(float(n))
        waits.append(pause(deaths, float(n)))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, None]


def test_old_deaths_are_forgiven() -> None:
    deaths = [float(n) for n in range(20)] + [1000.0]
    assert pause(deaths, 1000.0) == process.PAUSE_FIRST_S


@given(st.lists(st.floats(0, 1000), max_size=20).map(sorted))
def test_a_pause_is_bounded(deaths: list[float]) -> None:
    now = deaths[-1] if deaths else 0.0
    wait = pause(deaths, now)
    assert wait is None or process.PAUSE_FIRST_S <= wait <= process.PAUSE_MAX_S


@pytest.mark.parametrize(
    ("status", "words"), [(1, "ended with status 1"), (-9, "was killed by SIGKILL"), (-99, "was killed by signal 99")]
)
def test_how_it_ended(status: int, words: str) -> None:
    assert how(status) == words


PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-P", "-m", "jiffy.child", str(os.getpid()), "exec", "/bin/sh", "-c",
    "trap 'echo ended; exit 0' TERM; echo running; while :; do sleep 0.01; done"], start_new_session=True)
child.wait()
"""


def test_kill_9_of_the_parent_ends_the_child_in_good_order() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "running\n"
        parent.kill()
        parent.wait()
        assert parent.stdout.read() == "ended\n"  # read ends when the child, the pipe's last holder, has


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    command = [sys.executable, "-P", "-m", "jiffy.child", "1", "exec", "/bin/echo", "started"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_only_the_platforms_packages_are_run() -> None:
    command = [sys.executable, "-P", "-m", "jiffy.child", str(os.getpid()), "antigravity"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "gateway, gateway.ledger, invoker, builder, not 'antigravity'" in done.stderr
