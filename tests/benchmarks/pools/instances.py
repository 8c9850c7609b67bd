"""Many instances of one function: how fast they come, what they weigh idle, how fast a frozen one answers."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import uvloop

from tests.benchmarks.figures import HELLO, Figure
from tests.benchmarks.load import closed_loop, percentile
from tests.benchmarks.platform import Platform

from .arrivals import call

NAP = "import time\n\n\ndef handler(event, context):\n    time.sleep({seconds})\n    return 1\n"
NAP_S = 3.0  # of the burst: longer than it takes to start all its instances
START_MAX_S = 120.0
_PSS = re.compile(r"^Pss:\s+(\d+)", re.MULTILINE)


def burst(running: Platform, count: int) -> list[Figure]:
    """0 → `count` concurrent instances of one function."""
    table = f'handler = "nap:handler"\nmax_instances = {count}\ntimeout_s = 60\nmemory_mb = 64'
    running.deploy("burst", {"burst": table}, {"nap.py": NAP.format(seconds=NAP_S)})
    running.wait_for_stems()
    before_s = running.cpu_s()
    run = uvloop.run(closed_loop("127.0.0.1", running.port, [call("burst")] * count, count))
    cpu_ms = (running.cpu_s() - before_s) * 1000 / count
    time.sleep(1.5)
    row = _row(running, "burst")
    return [
        Figure(
            f"0 → {count} concurrent instances of one function, all answered, less its own {NAP_S:g} s",
            f"{run.seconds - NAP_S:.2f} s",
            "2 s (500)",
            f"{row['idle'] + row['frozen']} instances, {run.failed} failed, {cpu_ms:.1f} ms of processor time each, "
            f"generator {run.generator_share:.0%} of a core",
        )
    ]


def idle(running: Platform, count: int) -> list[Figure]:
    """`count` instances that nobody calls."""
    table = f'handler = "hello:handler"\nmin_instances = {count}\nmax_instances = {count}\nmemory_mb = 64'
    began = time.perf_counter()
    running.deploy("idle", {"idle": table}, {"hello.py": HELLO})
    row: dict[str, Any] = {}
    while row.get("idle", 0) + row.get("frozen", 0) < count and time.perf_counter() < began + START_MAX_S:
        time.sleep(0.2)
        with contextlib.suppress(StopIteration):
            row = _row(running, "idle")
    seconds = time.perf_counter() - began
    time.sleep(2)
    row = _row(running, "idle")
    there = max(1, row["idle"] + row["frozen"])
    weighed = [size for pid in running.processes() if (size := _pss_kb(pid))]
    pss = f"; PSS {sum(weighed) / there / 1024:.2f} MB" if len(weighed) > there else ""
    return [
        Figure(
            f"{count} idle instances, memory each (control groups' count, zygotes included)",
            f"{row['memory_bytes'] / there / 2**20:.2f} MB{pss}",
            "3 MB (1,000)",
            f"{there} instances after {seconds:.0f} s",
        )
    ]


def thaw(running: Platform, count: int) -> list[Figure]:
    """A call to a frozen sandbox, beside one to a sandbox that is awake."""
    running.deploy("thaw", {"thaw": 'handler = "hello:handler"'}, {"hello.py": HELLO})
    awake, frozen = _paused(running, count, 0.1), _paused(running, count, 0.4)  # it is frozen after 0.2 s
    return [
        Figure(
            "thaw and call, p50 / p99 (awake: p50 / p99)",
            f"{percentile(frozen, 50):.2f} / {percentile(frozen, 99):.2f} ms "
            f"({percentile(awake, 50):.2f} / {percentile(awake, 99):.2f} ms)",
            "p99 3 ms",
            f"{count} calls",
        )
    ]


def _paused(running: Platform, count: int, pause_s: float) -> list[float]:
    """Latencies, sorted, of calls on connections of their own with a pause before each."""
    took: list[float] = []
    for _ in range(count):
        time.sleep(pause_s)
        took += uvloop.run(closed_loop("127.0.0.1", running.port, [call("thaw")], 1)).latencies_ms
    return sorted(took)


def _row(running: Platform, name: str) -> dict[str, Any]:
    hosts = running.get("/v1/status")["invokers"]
    return next(row for host in hosts for row in host["functions"] if row["function"] == name)


def _pss_kb(pid: int) -> int:
    """An agent's; 0 of other processes, and where only root may look."""
    with contextlib.suppress(OSError):
        if b"/var/runtime/agent.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
            return int(found[1]) if found else 0
    return 0
