"""No child of a build outlives it."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from builder.processes import Processes
from jiffy.contract.errors import Unavailable

FORKS = "import os, time\nif os.fork() == 0:\n    time.sleep(600)\nprint(os.getpgid(0), flush=True)\n"


def group_of(output: str) -> int:
    return int(output.split()[0])


def stays(group: int) -> bool:
    """Is anyone of the group left after a while? A killed process takes a moment to die."""
    give_up = time.monotonic() + 10
    while alive(group) and time.monotonic() < give_up:
        time.sleep(0.01)
    return alive(group)


def alive(group: int) -> bool:
    """Anyone in the group who is not yet dead? (Orphans wait for process 1 to bury them.)"""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, pgrp = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            return True
    return False


def test_output_comes_line_by_line_and_stdin_arrives() -> None:
    said: list[str] = []
    program = "import sys; print(sys.stdin.read()); print('err', file=sys.stderr); sys.exit(3)"
    ended = Processes().run([sys.executable, "-c", program], env={}, timeout_s=30, stdin="in", say=said.append)
    assert (ended.code, ended.late) == (3, False)
    assert sorted(said) == ["err\n", "in\n"]


def test_what_floods_its_output_is_kept_within_bounds() -> None:
    most = 16 * 1024 * 1024
    program = "import os\nfor _ in range(40): os.write(1, bytes(1024 * 1024))\n"
    longest = 0

    def say(piece: str) -> None:
        nonlocal longest
        longest = max(longest, len(piece))

    ended = Processes().run([sys.executable, "-c", program], env={}, timeout_s=60, say=say)
    assert ended.code == 0 and longest <= 64 * 1024
    assert most <= len(ended.output) < most + 200
    assert ended.output.endswith(
        f"it wrote too much: {24 * 1024 * 1024} characters after the first {most} were not kept\n"
    )


def test_a_child_that_forks_and_stays_is_killed_with_its_group() -> None:
    ended = Processes().run([sys.executable, "-c", FORKS + "os._exit(0)"], env={}, timeout_s=1)
    assert not stays(group_of(ended.output))


def test_a_late_child_is_killed() -> None:
    ended = Processes().run([sys.executable, "-c", FORKS + "time.sleep(600)"], env={}, timeout_s=1)
    assert ended.late
    assert not stays(group_of(ended.output))


def test_closing_kills_what_runs_and_refuses_more() -> None:
    processes = Processes()
    started, failed = threading.Event(), list[Exception]()

    def build() -> None:
        try:
            processes.run(
                [sys.executable, "-c", FORKS + "time.sleep(600)"], env={}, timeout_s=60, say=lambda _: started.set()
            )
        except Unavailable as exc:
            failed.append(exc)

    thread = threading.Thread(target=build)
    thread.start()
    assert started.wait(30)
    processes.close()
    thread.join(30)
    assert len(failed) == 1
    with pytest.raises(Unavailable):
        processes.run(["true"], env={}, timeout_s=1)
