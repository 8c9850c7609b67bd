"""Asynchronous calls under load: accepted, run, drained, and whether the books balance then.

``python -m tests.benchmarks.durable [--sandbox KIND] [--quick]``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

import uvloop

from .__main__ import show
from .figures import HELLO, Figure
from .load import Run, closed_loop, median, request
from .platform import Platform, platform

ASYNC = request("POST", "/v1/functions/hello/invocations?mode=async", b'{"n":1}')
SYNC = request("POST", "/v1/functions/hello/invocations", b'{"n":1}')


def counters(running: Platform) -> dict[str, int]:
    found: dict[str, int] = running.get("/v1/audit")["counters"].get("default", {})
    return found


def drained(running: Platform, done: int) -> float:
    """Seconds until so many calls are done in all."""
    began = time.perf_counter()
    while counters(running).get("done", 0) < done:
        time.sleep(0.05)
    return time.perf_counter() - began


def cpu_s(running: Platform) -> dict[str, float]:
    """Processor seconds of each of the platform's processes so far."""
    found: dict[str, float] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().replace(" ", "\0").split("\0")
            words.append(str((process / "cwd").readlink()))  # Valkey's title does not say whose it is, its folder does
            ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue  # it has ended meanwhile
        part = next((p for p in ("gateway", "invoker", "valkey-server") if p in {Path(w).name for w in words}), "")
        if part and any(str(running.folder) in word for word in words):
            found[part] = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return found


def accept_and_drain(running: Platform, calls: int) -> tuple[list[Figure], float]:
    before = counters(running).get("done", 0)
    cpu = cpu_s(running)
    began = time.perf_counter()
    run: Run = uvloop.run(closed_loop("127.0.0.1", running.port, [ASYNC] * calls, 64))
    left = calls - (counters(running).get("done", 0) - before)
    seconds = drained(running, before + calls)
    whole = calls / (time.perf_counter() - began)
    spent = {part: (now - cpu.get(part, 0.0)) * 1e6 / calls for part, now in cpu_s(running).items()}
    rows = [
        Figure(
            "processor time of an asynchronous call",
            ", ".join(f"{part} {us:.0f} µs" for part, us in sorted(spent.items())),
            "",
            f"{calls} calls",
        ),
        Figure(
            "64 callers: accepted",
            f"{run.rate:,.0f} calls/s, p50 {run.percentile(50):.1f} ms, p99 {run.percentile(99):.1f} ms",
            "10,000 calls/s",
            f"{calls} calls, run meanwhile",
        ),
        Figure(
            "accepted to the last one done",
            f"{whole:,.0f} calls/s; {left} left at the end of accepting, drained in {seconds:.1f} s",
            "",
            f"{calls} calls",
        ),
    ]
    return rows, whole


async def _paced(port: int, rate: float, calls: int) -> None:
    """`calls` at a steady rate, eight at a time on connections of their own."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for n in range(0, calls, 8):
        await asyncio.sleep(max(0.0, began + n / rate - loop.time()))
        await closed_loop("127.0.0.1", port, [ASYNC] * min(8, calls - n), 8)


def half_load(running: Platform, rate: float, calls: int) -> Figure:
    before = counters(running).get("done", 0)
    uvloop.run(_paced(running.port, rate / 2, calls))
    drained(running, before + calls)
    rows = running.get(f"/v1/usage?by=call&limit={min(1000, calls)}")["rows"]
    queued = sorted(float(row["queue_ms"]) for row in rows)
    value = f"{median(queued):.2f} / {queued[int(len(queued) * 0.99)]:.2f} ms"
    return Figure("accepted to handler begun at half load, p50 / p99", value, "3 ms", f"{rate / 2:,.0f} calls/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls, to see that it runs")
    parser.add_argument("--sandbox", choices=["bwrap", "docker"], action="append", help="default: both")
    options = parser.parse_args()
    results = {}
    for sandbox in options.sandbox or ["bwrap", "docker"]:
        with platform(sandbox) as running:
            running.deploy("hello", {"hello": 'handler = "hello:handler"'}, {"hello.py": HELLO})
            uvloop.run(closed_loop("127.0.0.1", running.port, [SYNC] * 2000, 16))
            rows, rate = accept_and_drain(running, 4_000 if options.quick else 40_000)
            rows.append(half_load(running, rate, 500 if options.quick else 5_000))
            balanced = running.get("/v1/audit")["balanced"]
            rows.append(Figure("the books balance", str(balanced), "True", ""))
        results[f"Jiffy, {sandbox}"] = rows
    show(results)
    print(f"load average of the last minute: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
