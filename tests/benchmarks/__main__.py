"""Measure everything; print a table, write a JSON file. ``python -m tests.benchmarks [--quick] [--sandbox KIND]``"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import figures
from .figures import Figure
from .platform import free_port, platform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls, to see that it runs")
    parser.add_argument("--sandbox", choices=["bwrap", "docker"], action="append", help="default: both")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"))
    options = parser.parse_args()
    results: dict[str, list[Figure]] = {"floor (Starlette under uvicorn)": baseline(options.quick)}
    for sandbox in options.sandbox or ["bwrap", "docker"]:
        results[f"Jiffy, {sandbox}"] = measure(sandbox, options.quick)
    show(results)
    report = {title: [asdict(row) for row in rows] for title, rows in results.items()}
    options.json.write_text(json.dumps({"cpus": os.cpu_count(), "at": time.time(), "figures": report}, indent=2) + "\n")


def measure(sandbox: str, quick: bool) -> list[Figure]:
    """All figures of one driver, each platform fresh."""
    few = 5 if quick else 40
    cold_aim = "60 ms" if sandbox == "bwrap" else "400 ms"
    with platform(sandbox) as running:
        running.deploy("hello", {"hello": 'handler = "hello:handler"'}, {"hello.py": figures.HELLO})
        rows = figures.warm_calls(running.port, "warm", quick, ("0.5 / 2 ms", "8,000 calls/s"))
        rows += figures.first_calls(running, "first call ever, stem ready", "6 / 15 ms", few // 2, stems=True)
        rows += figures.one_more_instance(running, few)
        rows += figures.code_change(running, 3 if quick else 10)
    with platform(sandbox, "--stems", "0") as running:
        rows += figures.first_calls(running, "first call ever, no stem", cold_aim, 3 if quick else 20, stems=False)
    return rows


def baseline(quick: bool) -> list[Figure]:
    """The same calls to a bare Starlette app."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.baseline", str(port)])
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.05)
        return figures.warm_calls(port, "floor", quick)
    finally:
        server.terminate()
        server.wait()


def show(results: dict[str, list[Figure]]) -> None:
    table = Table("figure", "measured", "aim", "runs", title=f"{os.cpu_count()} processors, load generator included")
    for title, rows in results.items():
        table.add_section()
        table.add_row(f"[bold]{title}[/]")
        for row in rows:
            table.add_row(row.name, row.value, row.aim, row.runs)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
