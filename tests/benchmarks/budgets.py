"""What budgets and quotas cost a call: processor time of each part, with none, a soft and a hard one, and a quota.

``python -m tests.benchmarks.budgets [--sandbox KIND] [--calls 4000]``. Kinds take turns, so what else the machine does
falls on all of them; the medians of the rounds are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import urllib.request
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from .durable import SYNC, cpu_s
from .figures import HELLO
from .load import closed_loop
from .platform import Platform, platform

KINDS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "none": None,
    "a soft budget": ("budgets/one", {"limit": "1000000", "per": "month"}),
    "a hard budget": ("budgets/one", {"limit": "1000000", "per": "month", "hard": True}),
    "a rate and places": ("quotas/one", {"rate": 1_000_000, "concurrency": 100_000}),
}
PARTS = ("gateway", "invoker", "valkey-server")
CALLERS = 16


def ask(running: Platform, method: str, path: str, document: dict[str, Any] | None = None) -> None:
    body = None if document is None else json.dumps(document).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{running.url}/v1/{path}", body, headers, method=method), timeout=30
    ):
        pass


def measure(running: Platform, kind: str, calls: int) -> dict[str, float]:
    """Microseconds of each part per call."""
    path, document = KINDS[kind] or ("", None)
    if path:
        ask(running, "PUT", path, document)
    uvloop.run(closed_loop("127.0.0.1", running.port, [SYNC] * (calls // 10), CALLERS))
    before = cpu_s(running)
    run = uvloop.run(closed_loop("127.0.0.1", running.port, [SYNC] * calls, CALLERS))
    after = cpu_s(running)
    if run.failed:
        raise RuntimeError(f"{run.failed} calls failed")
    if path:
        ask(running, "DELETE", path)
    return {part: (after[part] - before[part]) * 1e6 / calls for part in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", choices=["bwrap", "docker"], default="bwrap")
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with platform(given.sandbox) as running:
        running.deploy("hello", {"hello": 'handler = "hello:handler"'}, {"hello.py": HELLO})
        for _ in range(given.rounds):
            for kind, rounds in found.items():
                rounds.append(measure(running, kind, given.calls))
    title = f"processor time of a call in µs, {given.rounds} × {given.calls} calls, {CALLERS} callers"
    table = Table("under", *PARTS, "together", title=f"{title}, {os.cpu_count()} processors")
    for kind, rounds in found.items():
        medians = [statistics.median(one[part] for one in rounds) for part in PARTS]
        whole = statistics.median(sum(one.values()) for one in rounds)
        table.add_row(kind, *(f"{us:.0f}" for us in medians), f"{whole:.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
