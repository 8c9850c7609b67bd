"""What pools do: ``python -m tests.benchmarks.pools [--sandbox KIND] [--only PART] [--quick]``, under eight minutes.

Everything is measured from the client, with the load generator on the same processors; its share of one is in the last
column, and a bare Starlette app under uvicorn in the same run is the floor.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from invoker.keepalive import DEFAULT, POLICIES, FixedTime
from tests.benchmarks.__main__ import baseline, show
from tests.benchmarks.figures import Figure
from tests.benchmarks.keepalive.day import Day
from tests.benchmarks.keepalive.replay import Clairvoyant, Replay
from tests.benchmarks.platform import platform

from . import cold, instances, sharing, warm

UNLIMITED = 1e12
PARTS: dict[str, Callable[[str, bool], list[Figure]]] = {}  # which each make platforms of their own


def part(work: Callable[[str, bool], list[Figure]]) -> Callable[[str, bool], list[Figure]]:
    PARTS[work.__name__] = work
    return work


@part
def first(sandbox: str, quick: bool) -> list[Figure]:
    return cold.first_calls(sandbox, quick)


@part
def sustained(sandbox: str, quick: bool) -> list[Figure]:
    return cold.sustained(sandbox, quick)


@part
def layer(sandbox: str, quick: bool) -> list[Figure]:
    with platform(sandbox) as running:
        return cold.large_layer(running, quick)


@part
def burst(sandbox: str, quick: bool) -> list[Figure]:
    with platform(sandbox) as running:
        return instances.burst(running, 50 if quick else 500)


@part
def idle(sandbox: str, quick: bool) -> list[Figure]:
    with platform(sandbox) as running:
        return instances.idle(running, 100 if quick else 1_000)


@part
def thaw(sandbox: str, quick: bool) -> list[Figure]:
    with platform(sandbox) as running:
        return instances.thaw(running, 20 if quick else 40)


@part
def calls(sandbox: str, quick: bool) -> list[Figure]:
    with platform(sandbox) as running:
        return warm.warm(running, quick)


@part
def growth(sandbox: str, quick: bool) -> list[Figure]:
    with platform(sandbox) as running:
        return warm.growth(running, quick)


@part
def flood(sandbox: str, quick: bool) -> list[Figure]:
    return sharing.flood(sandbox, quick) + sharing.tenants(sandbox, quick)


def keepalive(quick: bool) -> list[Figure]:
    """Cold starts of a replayed day, with equal memory; more of it: ``python -m tests.benchmarks.keepalive``."""
    day = Day(100 if quick else 1_000, 2019).arrivals()
    fixed = Replay(FixedTime(), UNLIMITED).run(day)
    ours = Replay(POLICIES[DEFAULT](), fixed.peak_mb).run(day)
    knowing = Replay(Clairvoyant(day), fixed.peak_mb).run(day)
    return [
        Figure(
            f"cold starts of {DEFAULT} against 10 minutes of fixed keep-alive, at equal memory",
            f"{ours.cold / fixed.cold:.2f} (clairvoyant: {knowing.cold / fixed.cold:.2f})",
            "1/3",
            f"{len(day):,} calls of a replayed day",
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer of everything, to see that it runs")
    parser.add_argument("--sandbox", choices=["bwrap", "docker"], action="append", help="default: both")
    parser.add_argument("--only", choices=["floor", "keepalive", *PARTS], action="append", help="default: all")
    options = parser.parse_args()
    only = options.only or ["floor", "keepalive", *PARTS]
    results = {}
    if "floor" in only:
        results["floor (Starlette under uvicorn)"] = baseline(quick=True)
    if "keepalive" in only:
        results["policy, without sandboxes"] = keepalive(options.quick)
    for sandbox in options.sandbox or ["bwrap", "docker"]:
        rows = [row for name, work in PARTS.items() if name in only for row in work(sandbox, options.quick)]
        results[f"Jiffy, {sandbox}"] = rows
    show(results)
    print(f"load average of the last minute: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
