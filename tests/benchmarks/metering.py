"""How true metered time is: against another clock, read by the function itself, with every processor loaded.

``python -m tests.benchmarks.metering [--calls N] [--sandbox KIND]`` prints the distribution of what was metered less
what the function measured (CLOCK_MONOTONIC_RAW, first to last line of the handler), and how many calls were billed
another step than that time makes. What lies between the two pairs of stamps is the agent's, a few microseconds, and
whatever else ran on the processor in between.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import random
import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from .load import percentile
from .platform import platform

CALLERS = 16
LONGEST_MS = 250  # two and a half steps, so that many calls end near one
STEP_MS = 100
HANDLER = """
import time


def handler(event, context):
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    until = time.monotonic() + event["ms"] / 1000
    if event["spin"]:
        while time.monotonic() < until:
            pass
    else:
        time.sleep(event["ms"] / 1000)
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - began
"""


class Seen(NamedTuple):
    """One call, in microseconds by the function's own clock and by the meter."""

    own_us: float
    metered_us: float
    billed_ms: int

    @property
    def wrong_step(self) -> bool:
        return self.billed_ms != max(1, -(-self.own_us // (STEP_MS * 1000))) * STEP_MS


def call_all(port: int, events: list[dict[str, object]]) -> list[Seen]:
    """One caller: these calls, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    seen = []
    for event in events:
        connection.request("POST", "/v1/functions/clock/invocations", json.dumps(event))
        answer = connection.getresponse()
        own_us = int(answer.read()) / 1000
        headers = answer.headers
        seen.append(Seen(own_us, float(headers["jiffy-duration-ms"]) * 1000, int(headers["jiffy-billed-ms"])))
    connection.close()
    return seen


def spin() -> None:
    while True:
        pass


def measure(sandbox: str, calls: int) -> list[Seen]:
    chance = random.Random(1)
    events: list[dict[str, object]] = [
        {"ms": chance.uniform(0, LONGEST_MS), "spin": chance.random() < 0.1} for _ in range(calls)
    ]
    with platform(sandbox) as running:
        running.deploy("clock", {"clock": 'handler = "clock:handler"\ntimeout_s = 60'}, {"clock.py": HANDLER})
        call_all(running.port, [{"ms": 1, "spin": False}] * 20)
        load = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
        for process in load:
            process.start()
        try:
            with ThreadPoolExecutor(CALLERS) as pool:
                found = pool.map(call_all, [running.port] * CALLERS, [events[n::CALLERS] for n in range(CALLERS)])
                return [one for seen in found for one in seen]
        finally:
            for process in load:
                process.terminate()


def show(seen: list[Seen]) -> None:
    errors = sorted(one.metered_us - one.own_us for one in seen)
    sizes = sorted(map(abs, errors))
    table = Table("metered less measured", "µs", "aim", title=f"{len(seen)} calls, all processors loaded")
    for share in (0, 1, 50, 90, 99, 99.9):
        table.add_row(f"p{share:g}", f"{percentile(errors, share):.1f}")
    table.add_row("largest", f"{errors[-1]:.1f}")
    table.add_row("mean", f"{statistics.mean(errors):.1f}", "20")
    table.add_row("p99 of its size", f"{percentile(sizes, 99):.1f}", "200")
    wrong = sum(one.wrong_step for one in seen)
    table.add_row("another step than its own time makes", f"{wrong} of {len(seen)}", "1 of 1000")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--sandbox", choices=["bwrap", "docker"], default="bwrap")
    options = parser.parse_args()
    show(measure(options.sandbox, options.calls))


if __name__ == "__main__":
    main()
