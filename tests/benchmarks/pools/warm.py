"""Warm calls: of one function and of a hundred, and with ever more functions deployed."""

from __future__ import annotations

import redis
import uvloop

from jiffy.contract import keys, wire
from jiffy.contract.messages import Revision
from tests.benchmarks.figures import HELLO, Figure
from tests.benchmarks.load import closed_loop
from tests.benchmarks.platform import Platform

from .arrivals import call

TENANT = "default"


def warm(running: Platform, quick: bool) -> list[Figure]:
    """One caller; 64 callers of one function, and of a hundred."""
    names = [f"warm-{n}" for n in range(10 if quick else 100)]
    running.deploy("warm", dict.fromkeys(names, 'handler = "hello:handler"'), {"hello.py": HELLO})
    uvloop.run(closed_loop("127.0.0.1", running.port, [call(name) for name in names] * 2, 4))
    one_calls, many_calls = (500, 2_000) if quick else (4_000, 20_000)
    one = uvloop.run(closed_loop("127.0.0.1", running.port, [call(names[0])] * one_calls, 1))
    rows = [
        Figure(
            "warm call, one caller, p50 / p99",
            f"{one.percentile(50):.2f} / {one.percentile(99):.2f} ms",
            "0.4 / 2 ms",
            f"{one_calls} calls, {one.failed} failed, generator {one.generator_share:.0%} of a core",
        )
    ]
    for some, aim in ((names[:1], "10,000/s"), (names, "8,000/s")):
        calls = [call(some[n % len(some)]) for n in range(many_calls)]
        run = uvloop.run(closed_loop("127.0.0.1", running.port, calls, 64))
        rows.append(
            Figure(
                f"warm calls, 64 callers, {len(some)} function{'s' if len(some) > 1 else ''}",
                f"{run.rate:,.0f}/s, p50 {run.percentile(50):.1f} ms, p99 {run.percentile(99):.1f} ms",
                aim,
                f"{many_calls} calls, {run.failed} failed, generator {run.generator_share:.0%} of a core",
            )
        )
    return rows


def growth(running: Platform, quick: bool) -> list[Figure]:
    """The median of a warm call while more and more functions are deployed; those are registered, not built."""
    running.deploy("grow", {"grow": 'handler = "hello:handler"'}, {"hello.py": HELLO})
    calls = 300 if quick else 2_000
    medians, there = [], 0
    for count in (10, 100, 1_000) if quick else (10, 1_000, 10_000):
        register(running, there, count)
        there = count
        uvloop.run(closed_loop("127.0.0.1", running.port, [call("grow")] * 200, 1))
        run = uvloop.run(closed_loop("127.0.0.1", running.port, [call("grow")] * calls, 1))
        medians.append((count, run.percentile(50)))
    shown = " / ".join(f"{count:,}" for count, _ in medians)
    spread = max(ms for _, ms in medians) / min(ms for _, ms in medians) - 1
    return [
        Figure(
            f"p50 of a warm call with {shown} functions deployed",
            f"{' / '.join(f'{ms:.2f}' for _, ms in medians)} ms (+{spread:.0%})",
            "within 10%",
            f"{calls} calls each",
        )
    ]


def register(running: Platform, first: int, end: int) -> None:
    """Functions like `grow`, with its layers, as a deploy leaves them in the queue."""
    queue = redis.Redis(unix_socket_path=str(running.folder / "data/run/valkey.sock"))
    kept = queue.hgetall(keys.function(TENANT, "grow"))
    field = keys.revision_field(int(kept[b"live"]))
    revision = wire.unpack(Revision, kept[field.encode() if isinstance(field, str) else field])
    with queue.pipeline(transaction=False) as pipe:
        for n in range(first, end):
            name = f"grown-{n}"
            fields = kept | {field: wire.pack(revision._replace(function=name, routes=()))}
            pipe.hset(keys.function(TENANT, name), mapping=fields)
            pipe.sadd(keys.functions(TENANT), name)
        pipe.execute()
    queue.close()
