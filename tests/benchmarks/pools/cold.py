"""Cold starts: with a stem ready and with an empty pool, as many a second as will go, and with a large layer."""

from __future__ import annotations

import http.client
import json
import time

from tests.benchmarks.figures import HELLO, Figure
from tests.benchmarks.load import median
from tests.benchmarks.platform import Platform, platform

from .arrivals import arrive, call

PER_S = 4.0  # so seldom that a stem is ready again
IMPORT = """import time

began = time.perf_counter()
import numpy, pandas

took_ms = (time.perf_counter() - began) * 1000


def handler(event, context):
    return took_ms
"""


def first_calls(sandbox: str, quick: bool) -> list[Figure]:
    """First calls of distinct functions, four a second, beside the same with no stem at all."""
    rows = []
    count = 8 if quick else 60
    for title, aim, options in (
        ("cold start, stem ready", "5 / 15 ms", ()),
        ("cold start, empty pool", "", ("--stems", "0")),
    ):
        with platform(sandbox, *options) as running:
            names = _deploy(running, "first", count)
            if not options:
                running.wait_for_stems()
            run = arrive(running.port, [call(name) for name in names], PER_S)
        rows.append(Figure(f"{title}, {PER_S:g} a second, p50 / p99", run.spread, aim, run.runs))
    return rows


def sustained(sandbox: str, quick: bool) -> list[Figure]:
    """First calls of distinct functions as fast as they are asked for: each rate on a fresh platform."""
    rows = []
    engine = sandbox == "docker"  # which needs so much longer that most would wait in vain
    seconds = 1 if quick or engine else 4
    for per_s in (50,) if engine else (50, 100):
        with platform(sandbox) as running:
            names = _deploy(running, "sustained", per_s * seconds)
            running.wait_for_stems()
            before_s = running.cpu_s()
            run = arrive(running.port, [call(name) for name in names], per_s)
            cpu_ms = (running.cpu_s() - before_s) * 1000 / len(names)
        rows.append(
            Figure(
                f"cold starts of distinct functions, {per_s} a second asked: done a second, p50 / p99",
                f"{(len(names) - run.failed) / run.seconds:.1f}/s, {run.spread}",
                "50/s (stretch 100)" if per_s == 50 else "",
                f"{run.runs}; {cpu_ms:.0f} ms of processor time each",
            )
        )
    return rows


def large_layer(running: Platform, quick: bool) -> list[Figure]:
    """The first call of a function that imports numpy and pandas, less what their import says it took."""
    title = "cold start with numpy and pandas, above their own import, median"
    names = [f"large-{n}" for n in range(2 if quick else 8)]
    table = 'handler = "large:handler"\nmemory_mb = 512\ntimeout_s = 60'
    files = {"large.py": IMPORT, "requirements.txt": "numpy\npandas\n"}
    try:
        running.deploy("large", dict.fromkeys(names, table), files)
    except RuntimeError:
        return [Figure(title, "not measured: no index of packages answered", "5 ms", "")]
    took, imports = [], []
    for name in names:
        running.wait_for_stems()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.connect()
        began = time.perf_counter()
        connection.request("POST", f"/function/{name}", b"{}", {"content-type": "application/json"})
        body = connection.getresponse().read()
        took.append((time.perf_counter() - began) * 1000)
        imports.append(float(json.loads(body)))
        connection.close()
    above = median([all_ms - own_ms for all_ms, own_ms in zip(took, imports, strict=True)])
    return [Figure(title, f"{above:.1f} ms", "5 ms", f"{len(names)} functions, import {median(imports):.0f} ms")]


def _deploy(running: Platform, name: str, count: int) -> list[str]:
    names = [f"{name}-{n}" for n in range(count)]
    running.deploy(name, dict.fromkeys(names, 'handler = "hello:handler"'), {"hello.py": HELLO})
    return names
