"""Asynchronous calls under load: accepted, run, drained, on one host and on four, and whether the books balance then.

``python -m tests.benchmarks.durable [--part PART] … [--calls N] [--sandbox KIND] … [--quick]``

accept    64 callers; what a call costs each process; how fast all of it drains
half      from acceptance to the handler's beginning, at half of that rate
backlog   a backlog (1,000,000 unless --calls says otherwise) that is due at one moment: its rate, and gateways' memory
scaling   one, two and four invokers and a function that sleeps
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
import uvloop

from jiffy.contract import keys
from tests.chaos import books
from tests.chaos.clients import PATH
from tests.chaos.fleet import KEY, Fleet

from .__main__ import show
from .figures import HELLO, Figure
from .load import Run, closed_loop, median, request
from .platform import Platform, platform

CALL = "/v1/functions/hello/invocations"
ASYNC = request("POST", f"{CALL}?mode=async", b'{"n":1}')
SYNC = request("POST", CALL, b'{"n":1}')
CALLERS = 64
INSTANCES, NAP_S = 16, 0.5  # of an invoker that is to be full; how long its function sleeps


def counters(running: Platform) -> dict[str, int]:
    """The platform's own counters of asynchronous calls."""
    with redis.Redis(unix_socket_path=str(running.folder / "data/run/valkey.sock")) as client:
        found: dict[bytes, bytes] = client.hgetall(keys.tally("default"))  # type: ignore[assignment]  # redis-py's stubs
        return {name.decode(): int(count) for name, count in found.items()}


def drained(running: Platform, done: int, seen: Callable[[], None] = lambda: None) -> float:
    """Seconds until so many calls are done in all."""
    began = time.perf_counter()
    while counters(running).get("done", 0) < done:
        seen()
        time.sleep(0.05)
    return time.perf_counter() - began


def processes(running: Platform) -> Iterator[tuple[str, Path]]:
    """The platform's gateways, invokers and queue: (which, /proc/PID)."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().replace(" ", "\0").split("\0")
            words.append(str((process / "cwd").readlink()))  # Valkey's title does not say whose it is, its folder does
        except OSError:
            continue  # it has ended meanwhile
        part = next((p for p in ("gateway", "invoker", "valkey-server") if p in {Path(w).name for w in words}), "")
        if part and any(str(running.folder) in word for word in words):
            yield part, process


def cpu_s(running: Platform) -> dict[str, float]:
    """Processor seconds of each so far."""
    found: dict[str, float] = {}
    for part, process in processes(running):
        ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        found[part] = found.get(part, 0.0) + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return found


def gateway_mib(running: Platform) -> int:
    """The largest gateway's memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    of = [int((p / "statm").read_text().split()[1]) * page for part, p in processes(running) if part == "gateway"]
    return max(of) // 2**20


def accept(running: Platform, calls: int) -> tuple[list[Figure], float]:
    """The rows, and calls a second from the first acceptance to the last end."""
    before = counters(running).get("done", 0)
    cpu = cpu_s(running)
    began = time.perf_counter()
    run: Run = uvloop.run(closed_loop("127.0.0.1", running.port, [ASYNC] * calls, CALLERS))
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
            f"{CALLERS} callers: accepted",
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


def backlog(running: Platform, rate: float, calls: int) -> list[Figure]:
    """A backlog that is due once all of it is accepted. `rate` is that of `accept`: it tells when, and is the aim."""
    before = counters(running).get("done", 0)
    small = gateway_mib(running)
    due = time.monotonic() + 2 * calls / rate + 5
    run: Run = uvloop.run(_until(running.port, calls, due))
    full = gateway_mib(running)
    time.sleep(max(0.0, due - time.monotonic()))
    most = [full]
    seconds = drained(running, before + calls, lambda: most.append(gateway_mib(running)))
    return [
        Figure(f"{CALLERS} callers: accepted, to be run later", f"{run.rate:,.0f} calls/s", "", f"{calls} calls"),
        Figure(
            f"a backlog of {calls:,} drains",
            f"{calls / seconds:,.0f} calls/s, {calls / seconds / rate:.0%} of the steady rate",
            "80%",
            f"steady: {rate:,.0f} calls/s",
        ),
        Figure(
            "the gateway's memory before, with the backlog, at most while it drains",
            f"{small}, {full}, {max(most)} MiB",
            "flat",
            "",
        ),
    ]


async def _until(port: int, calls: int, due: float) -> Run:
    """Accepted in portions, each delayed until `due`."""
    runs: list[Run] = []
    portion = 20_000
    for n in range(0, calls, portion):
        later = request("POST", f"{CALL}?mode=async&delay={max(0.0, due - time.monotonic()):.1f}", b'{"n":1}')
        runs.append(await closed_loop("127.0.0.1", port, [later] * min(portion, calls - n), CALLERS))
    latencies = tuple(sorted(ms for run in runs for ms in run.latencies_ms))
    return Run(latencies, sum(run.seconds for run in runs), 0, sum(run.generator_cpu_s for run in runs))


async def _naps(invokers: int, seconds: float) -> float:
    """Calls a second of a function that sleeps, on so many invokers that may have INSTANCES of it each."""
    with tempfile.TemporaryDirectory(prefix="jiffy-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # functions' users enter it
        fleet = Fleet(
            *(folder, 1, invokers), straight=True, invoker_options=("--instances", str(INSTANCES)), max_instances=1000
        )
        await fleet.start()
        try:
            await books.quiet(fleet.urls[0], 120.0)
            host, _, port = fleet.urls[0].removeprefix("http://").partition(":")
            callers = 2 * INSTANCES * invokers
            nap = request("POST", PATH, json.dumps({"n": 0, "s": NAP_S}).encode(), api_key=KEY)
            await closed_loop(host, int(port), [nap] * callers * 5, callers)  # until there are all instances
            run = await closed_loop(host, int(port), [nap] * int(INSTANCES * invokers / NAP_S * seconds), callers)
            if run.failed:
                raise RuntimeError(f"{run.failed} calls failed")
            return run.rate
        finally:
            await fleet.stop()


def scaling(seconds: float) -> list[Figure]:
    rates = {n: uvloop.run(_naps(n, seconds)) for n in (1, 2, 4)}
    return [
        Figure(
            f"a function that sleeps {NAP_S:g} s, on {n} invokers of {INSTANCES} instances",
            f"{rate:,.0f} calls/s, {rate / rates[1]:.2f} times one's, {rate * NAP_S / INSTANCES / n:.0%} of the most",
            f"{n:.2f} times" if n > 1 else "",
            f"for about {seconds:g} s",
        )
        for n, rate in rates.items()
    ]


PARTS = ("accept", "half", "backlog", "scaling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fraction of the calls, to see that it runs")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--calls", type=int, metavar="N", help="of the backlog")
    parser.add_argument("--sandbox", choices=["bwrap", "docker"], action="append", help="default: both")
    options = parser.parse_args()
    parts = options.part or PARTS
    results: dict[str, list[Figure]] = {}
    for sandbox in options.sandbox or ["bwrap", "docker"]:
        if set(parts) == {"scaling"}:
            break
        with platform(sandbox) as running:
            running.deploy("hello", {"hello": 'handler = "hello:handler"'}, {"hello.py": HELLO})
            uvloop.run(closed_loop("127.0.0.1", running.port, [SYNC] * 2000, 16))
            rows, rate = accept(running, 4_000 if options.quick else 40_000)  # the others' load follows from it
            if "half" in parts:
                rows.append(half_load(running, rate, 500 if options.quick else 5_000))
            if "backlog" in parts:
                rows += backlog(running, rate, options.calls or (10_000 if options.quick else 1_000_000))
            balanced = running.get("/v1/audit")["balanced"]
            rows.append(Figure("the books balance", str(balanced), "True", ""))
        results[f"Jiffy, {sandbox}"] = rows
    if "scaling" in parts:
        results["Jiffy, bwrap, hosts of one platform"] = scaling(2.0 if options.quick else 20.0)
    show(results)
    print(f"load average of the last minute: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
