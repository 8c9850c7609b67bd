"""Calls that arrive when they are due, whatever became of those before: latency counts from that moment."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass

import uvloop

from tests.benchmarks.load import closed_loop, percentile, request


def call(name: str, api_key: str = "") -> bytes:
    return request("POST", f"/function/{name}", b"{}", api_key=api_key)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What an open loop measured."""

    latencies_ms: tuple[float, ...]  # sorted; from when a call was due
    seconds: float  # until the last was answered
    failed: int
    generator_cpu_s: float

    @property
    def spread(self) -> str:
        return f"{percentile(self.latencies_ms, 50):.1f} / {percentile(self.latencies_ms, 99):.1f} ms"

    @property
    def runs(self) -> str:
        share = self.generator_cpu_s / self.seconds
        return f"{len(self.latencies_ms)} calls, {self.failed} failed, generator {share:.0%} of a core"


def arrive(port: int, requests: list[bytes], per_s: float) -> Arrivals:
    """Send them at fixed intervals, each on a connection of its own."""
    return uvloop.run(arriving(port, requests, per_s))


async def arriving(port: int, requests: list[bytes], per_s: float) -> Arrivals:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    tasks = []
    for n, one in enumerate(requests):
        due = began + n / per_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(_one(port, one, due)))
    done = await asyncio.gather(*tasks)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime
    took, failed = sorted(ms for ms, _ in done), sum(failed for _, failed in done)
    return Arrivals(tuple(took), time.perf_counter() - began, failed, cpu_s)


async def _one(port: int, one: bytes, due: float) -> tuple[float, int]:
    run = await closed_loop("127.0.0.1", port, [one], 1)
    return (time.perf_counter() - due) * 1000, run.failed
