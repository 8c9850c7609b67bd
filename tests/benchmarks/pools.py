"""What pools do under bursts, floods and idleness: ``python -m tests.benchmarks.pools [--sandbox KIND] [--quick]``."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import tempfile
import time

import uvloop

from jiffy.contract.access import digest

from .__main__ import show
from .figures import HELLO, Figure
from .load import Run, closed_loop, percentile, request
from .platform import Platform, platform

NAP = "import time\n\n\ndef handler(event, context):\n    time.sleep({seconds})\n    return 1\n"
NAP_S = 3.0  # of the burst: longer than it takes to start all its instances
KINDS = ["burst", "cold", "thaw", "flood", "tenants"]
BUSY_S = 0.2  # a call of the flood


def call(name: str, api_key: str = "") -> bytes:
    return request("POST", f"/function/{name}", b"{}", api_key=api_key)


async def open_loop(port: int, requests: list[bytes], per_s: float) -> list[Run]:
    """Requests at fixed times, whatever became of those before."""
    began = time.perf_counter()
    tasks = []
    for n, one in enumerate(requests):
        await asyncio.sleep(max(0.0, began + n / per_s - time.perf_counter()))
        tasks.append(asyncio.create_task(closed_loop("127.0.0.1", port, [one], 1)))
    return await asyncio.gather(*tasks)


def burst(running: Platform, count: int) -> list[Figure]:
    """0 → `count` concurrent instances of one function; then what they weigh when idle, and frozen."""
    table = f'handler = "nap:handler"\nmax_instances = {count}\ntimeout_s = 60\nmemory_mb = 64'
    running.deploy("burst", {"burst": table}, {"nap.py": NAP.format(seconds=NAP_S)})
    running.wait_for_stems()
    run = uvloop.run(closed_loop("127.0.0.1", running.port, [call("burst")] * count, count))
    time.sleep(1.5)
    [row] = [f for host in running.get("/v1/status")["invokers"] for f in host["functions"] if f["function"] == "burst"]
    instances = row["idle"] + row["frozen"]
    return [
        Figure(
            f"0 → {count} concurrent instances of one function, all answered, less its own {NAP_S:g} s",
            f"{run.seconds - NAP_S:.2f} s",
            "2 s (500)",
            f"{instances} instances, {run.failed} failed",
        ),
        Figure(
            "idle instances, memory each (control groups' count, zygote included)",
            f"{row['memory_bytes'] / max(1, instances) / 2**20:.2f} MB",
            "3 MB",
            f"{instances} instances",
        ),
    ]


def cold_starts(running: Platform, per_s: float, count: int) -> list[Figure]:
    """First calls of distinct functions at a steady rate."""
    names = [f"cold-{n}" for n in range(count)]
    running.deploy("cold", dict.fromkeys(names, 'handler = "hello:handler"'), {"hello.py": HELLO})
    running.wait_for_stems()
    began = time.perf_counter()
    runs = uvloop.run(open_loop(running.port, [call(name) for name in names], per_s))
    seconds = time.perf_counter() - began
    took = sorted(run.latencies_ms[0] for run in runs)
    failed = sum(run.failed for run in runs)
    return [
        Figure(
            f"cold starts of distinct functions, {per_s:g} a second asked: done a second, p50 / p99",
            f"{count / seconds:.1f}/s, {percentile(took, 50):.0f} / {percentile(took, 99):.0f} ms",
            "50/s",
            f"{count} functions, {failed} failed",
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


def flood(sandbox: str, quick: bool) -> list[Figure]:
    """One function floods a host of 16 instances with 64 callers; another one is called five times a second."""
    calls = 10 if quick else 50
    with platform(sandbox, "--instances", "16") as running:
        table = 'handler = "nap:handler"\ntimeout_s = 20'
        running.deploy("flood", {"flood": table, "quiet": table}, {"nap.py": NAP.format(seconds=BUSY_S)})
        uvloop.run(closed_loop("127.0.0.1", running.port, [call("quiet")] * 5, 1))
        alone = uvloop.run(open_loop(running.port, [call("quiet")] * calls, 5))
        both = uvloop.run(_flooded(running.port, [call("flood")], [call("quiet")] * calls))
    calm, busy = (sorted(run.latencies_ms[0] for run in runs) for runs in (alone, both))
    return [
        Figure(
            f"a call of {BUSY_S * 1000:.0f} ms beside a flood of 64 callers, p50 / p99 (alone: p50 / p99)",
            f"{percentile(busy, 50):.0f} / {percentile(busy, 99):.0f} ms "
            f"({percentile(calm, 50):.0f} / {percentile(calm, 99):.0f} ms)",
            "p50 at most twice",
            f"{calls} calls, {sum(run.failed for run in both)} failed",
        )
    ]


def tenants(sandbox: str, quick: bool) -> list[Figure]:
    """One tenant floods a host of 16 instances with all of its four functions; another one has one that is called."""
    calls = 10 if quick else 50
    keys = {name: secrets.token_urlsafe(32) for name in ("loud", "quiet")}
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        for name, key in keys.items():
            file.write(f'[keys.{name}]\ntenant = "{name}"\nrole = "deploy"\nkey_sha256 = "{digest(key)}"\n')
        file.flush()
        with platform(sandbox, "--instances", "16", "--keys", file.name) as running:
            nap = {"nap.py": NAP.format(seconds=BUSY_S)}
            table = 'handler = "nap:handler"\ntimeout_s = 20'
            running.deploy("loud", {f"nap-{n}": table for n in range(4)}, nap, keys["loud"])
            running.deploy("quiet", {"nap-0": table}, nap, keys["quiet"])
            quiet = call("nap-0", keys["quiet"])
            uvloop.run(closed_loop("127.0.0.1", running.port, [quiet] * 5, 1))
            alone = uvloop.run(open_loop(running.port, [quiet] * calls, 5))
            loud = [call(f"nap-{n}", keys["loud"]) for n in range(4)]
            both = uvloop.run(_flooded(running.port, loud, [quiet] * calls))
    calm, busy = (sorted(run.latencies_ms[0] for run in runs) for runs in (alone, both))
    return [
        Figure(
            "the same beside another tenant's flood, 64 callers of four functions, p50 / p99 (alone: p50 / p99)",
            f"{percentile(busy, 50):.0f} / {percentile(busy, 99):.0f} ms "
            f"({percentile(calm, 50):.0f} / {percentile(calm, 99):.0f} ms)",
            "p50 at most twice",
            f"{calls} calls, {sum(run.failed for run in both)} failed",
        )
    ]


async def _flooded(port: int, flood: list[bytes], quiet: list[bytes]) -> list[Run]:
    """`quiet`, five a second, while 64 callers send `flood` over and over."""
    flooding = asyncio.create_task(closed_loop("127.0.0.1", port, flood * (100_000 // len(flood)), 64))
    await asyncio.sleep(3)
    runs = await open_loop(port, quiet, 5)
    flooding.cancel()
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer of everything, to see that it runs")
    parser.add_argument("--sandbox", choices=["bwrap", "docker"], action="append", help="default: both")
    parser.add_argument("--only", choices=KINDS, action="append", help="default: all")
    options = parser.parse_args()
    results = {}
    for sandbox in options.sandbox or ["bwrap", "docker"]:
        rows = []
        only = options.only or KINDS
        with platform(sandbox) as running:
            if "thaw" in only:
                rows += thaw(running, 20 if options.quick else 100)
            if "cold" in only:
                rows += cold_starts(running, 50, 25 if options.quick else 250)
            if "burst" in only:
                rows += burst(running, 50 if options.quick else 500)
        if "flood" in only:
            rows += flood(sandbox, options.quick)
        if "tenants" in only:
            rows += tenants(sandbox, options.quick)
        results[f"Jiffy, {sandbox}"] = rows
    show(results)
    print(f"load average of the last minute: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
