"""How each figure is measured. Every function takes a running platform and returns `Figure` rows."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from dataclasses import dataclass

import uvloop

from .load import Run, closed_loop, median, percentile, request
from .platform import Platform

HELLO = 'def handler(event, context):\n    return {"hello": "world"}\n'
NAP = 'import time\n\n\ndef handler(event, context):\n    time.sleep(2.5)\n    return "rested"\n'
CALL = request("POST", "/function/hello", b'{"n":1}')


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    aim: str
    runs: str


async def _loop(port: int, callers: int, calls: int) -> Run:
    return await closed_loop("127.0.0.1", port, [CALL] * calls, callers)


def warm_calls(port: int, label: str, quick: bool, aims: tuple[str, str] = ("", "")) -> list[Figure]:
    """One caller's latency, and 64 callers' rate, of a function that is already warm."""
    one_calls, many_calls = (500, 4_000) if quick else (5_000, 40_000)
    uvloop.run(_loop(port, 16, 1_000))
    one = uvloop.run(_loop(port, 1, one_calls))
    rows = [
        Figure(
            f"{label}: one caller, p50 / p99",
            f"{one.percentile(50):.2f} / {one.percentile(99):.2f} ms",
            aims[0],
            f"{one_calls} calls, {one.failed} failed",
        )
    ]
    for callers in (16, 64):
        many = uvloop.run(_loop(port, callers, many_calls))
        rows.append(
            Figure(
                f"{label}: {callers} callers",
                f"{many.rate:,.0f} calls/s, p50 {many.percentile(50):.1f} ms, p99 {many.percentile(99):.1f} ms",
                aims[1] if callers == 64 else "",
                f"{many_calls} calls, {many.failed} failed, generator {many.generator_share:.0%} of a core",
            )
        )
    return rows


def first_calls(platform: Platform, label: str, aim: str, count: int, *, stems: bool) -> list[Figure]:
    """The first call ever of functions that have just been deployed, with a stem ready for each or with none."""
    names = [f"first-{n}" for n in range(count)]
    platform.deploy("first", dict.fromkeys(names, 'handler = "hello:handler"'), {"hello.py": HELLO})
    took: list[float] = []
    for name in names:
        if stems:
            platform.wait_for_stems()
        run = uvloop.run(closed_loop("127.0.0.1", platform.port, [request("POST", f"/function/{name}", b"{}")], 1))
        if run.failed:
            raise RuntimeError(f"the first call of {name} failed")
        took.append(run.latencies_ms[0])
    took.sort()
    value = f"{percentile(took, 50):.1f} / {percentile(took, 99):.1f} ms"
    return [Figure(f"{label}, p50 / p99", value, aim, f"{count} functions")]


def one_more_instance(platform: Platform, count: int) -> list[Figure]:
    """What a call pays that needs one more instance of a warm function: its latency above the function's own time."""
    platform.deploy("nap", {"nap": 'handler = "nap:handler"'}, {"nap.py": NAP})
    uvloop.run(closed_loop("127.0.0.1", platform.port, [request("POST", "/function/nap", b"{}")], 1))
    extra = uvloop.run(_staggered(platform.port, count))
    extra.sort()
    return [
        Figure(
            "one more instance, p50 / p99",
            f"{percentile(extra, 50):.1f} / {percentile(extra, 99):.1f} ms",
            "2 ms",
            f"{count} forks",
        )
    ]


async def _staggered(port: int, count: int) -> list[float]:
    """Calls that begin 50 ms apart and nap 2.5 s each: every one finds all instances busy."""
    nap = request("POST", "/function/nap", b"{}")
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(closed_loop("127.0.0.1", port, [nap], 1)))
        await asyncio.sleep(0.05)
    return [run.latencies_ms[0] - 2500 for run in await asyncio.gather(*tasks)]


def code_change(platform: Platform, count: int) -> list[Figure]:
    """From `jiffy deploy` with one changed line to the first answer of the new revision."""
    took: list[float] = []
    for n in range(count + 1):
        source = f"def handler(event, context):\n    return {{'version': {n}}}\n"
        began = time.perf_counter()
        platform.deploy("change", {"change": 'handler = "change:handler"'}, {"change.py": source})
        while True:
            with urllib.request.urlopen(f"{platform.url}/function/change", timeout=30) as answer:
                if answer.read() == b'{"version": %d}' % n or b'{"version":%d}' % n:
                    break
        if n:
            took.append(time.perf_counter() - began)
    return [
        Figure(
            "deploy of a code change, command to new revision serving",
            f"{median(took):.2f} s",
            "1 s",
            f"{count} deploys",
        )
    ]
