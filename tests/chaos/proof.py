"""The claim, proven: a million asynchronous calls and 200,000 synchronous ones under kill -9 of every kind of process,
Redis included, and not one of them lost, answered twice, billed twice or missing in the ledger.

``python -m tests.chaos.proof [--async N] [--sync N] [--seed N] [--every SECONDS] [--report FILE]``

Redis has `appendfsync always`. It prints what happens, a line every ten seconds, and in the end a table (Markdown, also
into FILE); it exits with 1 when a promise was broken. How long it takes: about N/1,000 seconds on two quiet cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from jiffy.contract import keys
from tests.chaos import books
from tests.chaos.crowd import Crowd
from tests.chaos.fleet import Fleet
from tests.chaos.promises import ASYNC, SYNC, Promises
from tests.chaos.schedule import Kind, schedule

READY_S, REST_S = 120.0, 600.0
QUEUED_MAX = 5_000  # asynchronous calls that wait: synchronous ones stand behind them
LOOK_S, SAY_S = 0.5, 10.0
NEVER_S = 1e9
GROWN_MAX = 1.25, 64  # of gateways' memory, from the middle third of a run to the last: that much more, and MiB


@dataclass
class Seen:
    """What was seen while it ran."""

    began: float = field(default_factory=time.monotonic)
    events: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)  # the largest gateway's, in MiB, twice a second
    queued_max: int = 0

    def memory_of(self, third: int) -> int:
        """The most that a gateway had in the first, second or last third (0, 1, 2) of the run, in MiB."""
        share = max(1, len(self.memory) // 3)
        part = self.memory[third * share : (third + 1) * share if third < 2 else None]
        return max((mib for _, mib in part), default=0)


async def prove(fleet: Fleet, promises: Promises, given: argparse.Namespace) -> tuple[str, bool]:
    """The report, and whether every promise was kept."""
    await fleet.start()
    supervising = asyncio.create_task(fleet.supervise())
    try:
        await books.quiet(fleet.urls[0], READY_S)
        crowd = Crowd(fleet.urls, promises, {ASYNC: given.asynchronous, SYNC: given.synchronous})
        seen = Seen()
        others = [
            asyncio.create_task(work) for work in (_kill(fleet, given, seen), _look(fleet, crowd, seen), _say(crowd))
        ]
        await crowd.run({ASYNC: given.callers, SYNC: given.callers // 2})
        called_s = time.monotonic() - seen.began
        others[0].cancel()
        await asyncio.gather(others[0], return_exceptions=True)
        audit = await books.quiet(fleet.urls[0], REST_S)
        took_s = time.monotonic() - seen.began
        for task in others:
            task.cancel()
        print("all is quiet; reading the books", flush=True)
        ends = await promises.verify(fleet.redis.url, fleet.data)
        for check in audit["checks"]:
            if not check["balanced"]:
                promises.breach("the audit", str(check))
        grown, slack = seen.memory_of(2), seen.memory_of(1) * GROWN_MAX[0] + GROWN_MAX[1]
        if grown > slack:
            promises.breach("memory", f"a gateway had {seen.memory_of(1)} MiB, and then {grown}")
    finally:
        supervising.cancel()
        await fleet.stop()
    return _report(crowd, seen, ends, audit["counters"]["default"], (called_s, took_s), given), not promises.broken


async def _kill(fleet: Fleet, given: argparse.Namespace, seen: Seen) -> None:
    happening: set[asyncio.Task[None]] = set()
    try:
        for event in schedule(given.seed, fleet.targets, NEVER_S, given.every, (Kind.KILL,)):
            await asyncio.sleep(max(0.0, seen.began + event.at_s - time.monotonic()))
            if not fleet.up(event.target):
                continue  # it is not back since the last time
            print(event, flush=True)
            seen.events[event.target.partition("-")[0]] += 1
            happening.add(task := asyncio.create_task(fleet.happen(event)))
            task.add_done_callback(happening.discard)
    finally:
        await asyncio.gather(*happening)


async def _look(fleet: Fleet, crowd: Crowd, seen: Seen) -> None:
    """Memory and queues; asynchronous callers wait while too much is queued."""
    async with Redis.from_url(fleet.redis.url, protocol=2) as redis:
        while True:
            await asyncio.sleep(LOOK_S)
            seen.memory.append((time.monotonic(), max(map(_resident_mib, fleet.gateways()))))
            try:
                queued = int(await redis.hlen(keys.backlog("default")))  # type: ignore[misc]  # redis-py's stubs
            except (RedisError, OSError):
                continue
            seen.queued_max = max(seen.queued_max, queued)
            crowd.held = queued > QUEUED_MAX


async def _say(crowd: Crowd) -> None:
    began, before = time.monotonic(), 0
    while True:
        await asyncio.sleep(SAY_S)
        queued, answered = crowd.promises.kept[ASYNC], crowd.promises.kept[SYNC]
        rate, before = (queued + answered - before) / SAY_S, queued + answered
        print(
            f"{time.monotonic() - began:7.0f} s  {queued} accepted, {answered} answered, {rate:,.0f} a second; "
            f"we take {_resident_mib(os.getpid())} MiB",
            flush=True,
        )


def _resident_mib(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (OSError, IndexError):
        return 0  # it is being started again


def _report(
    crowd: Crowd,
    seen: Seen,
    ends: Counter[str],
    tally: dict[str, int],
    seconds: tuple[float, float],
    given: argparse.Namespace,
) -> str:
    promises = crowd.promises
    queued, answered = promises.kept[ASYNC], promises.kept[SYNC]
    kills = ", ".join(f"{name} {n}" for name, n in sorted(seen.events.items()))
    rows = {
        "asynchronous calls accepted": f"{queued:,}",
        "… that ended": ", ".join(f"{name} {count:,}" for name, count in sorted(ends.items())),
        "… and those whose 202 was lost with its gateway": f"{tally.get('accepted', 0) - queued:,}",
        "synchronous calls answered": f"{answered:,}",
        "attempts tried again": f"{tally.get('retried', 0):,}",
        "kill -9": f"{seen.events.total()}: {kills}",
        "other answers": ", ".join(f"{name} {n:,}" for name, n in sorted(crowd.counts.items())),
        "seconds of calls, and to the last end": f"{seconds[0]:,.0f}, {seconds[1]:,.0f}",
        "calls a second": f"{(queued + answered) / seconds[1]:,.0f}",
        "queued at most": f"{seen.queued_max:,}",
        "largest gateway, MiB in thirds of the run": ", ".join(str(seen.memory_of(third)) for third in range(3)),
        **{f"BROKEN {kind}": f"{count:,}" for kind, count in sorted(promises.broken.items())},
        "lost, answered twice, billed twice, missing in the ledger": "see BROKEN" if promises.broken else "0",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    examples = "".join(f"\n{line}" for line in promises.examples)
    return f"seed {given.seed}\n\n| | |\n|---|---|\n{table}\n{examples}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.proof", description="Proves that nothing is lost.")
    parser.add_argument("--async", dest="asynchronous", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--sync", dest="synchronous", type=int, default=200_000, metavar="N")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--gateways", type=int, default=2, metavar="N")
    parser.add_argument("--invokers", type=int, default=2, metavar="N")
    parser.add_argument(
        "--callers", type=int, default=64, metavar="N", help="asynchronous ones, and half as many others"
    )
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="mean time between two kills")
    parser.add_argument("--report", type=Path, metavar="FILE")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="jiffy-proof-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # functions' users enter it
        fleet = Fleet(folder, given.gateways, given.invokers, straight=True)
        report, kept = uvloop.run(prove(fleet, Promises(folder / "promises.sqlite3"), given))
    print(report)
    if given.report:
        given.report.write_text(report + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
