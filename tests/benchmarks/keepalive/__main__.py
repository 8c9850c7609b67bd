"""Which keep-alive policy wins? ``python -m tests.benchmarks.keepalive [--functions N] [--seed N] [--json FILE]``

Replays one day against every policy with the memory that a fixed ten minutes' keep-alive uses on average, prints cold
starts and wasted memory, and a plot of cold starts over memory.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import plotext
from rich.console import Console
from rich.table import Table

from invoker.keepalive import POLICIES, FixedTime

from .day import STEADY, Day
from .replay import Calls, Clairvoyant, Replay, Result, bound

BUDGETS = (0.5, 1.0, 2.0)  # of the memory that fixed keep-alive needs
UNLIMITED = 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=2019)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    day = Day(options.functions, options.seed)
    calls = day.arrivals()
    fixed = Replay(FixedTime(), UNLIMITED).run(calls)
    curves = {share: replay_all(calls, fixed.peak_mb * share) for share in BUDGETS}
    bounds = {share: bound(calls, fixed.peak_mb * share) for share in BUDGETS}
    table = Table(
        *("policy", "cold starts", "of calls", "against fixed", "above the bound", "held", "idle", "replayed in"),
        title=f"one day, seed {options.seed}: {options.functions} functions, {len(calls):,} calls\n"
        f"(and {day.steady_calls:,} of functions above {STEADY:,} a day, which are always warm)\n"
        f"memory: {fixed.peak_mb:,.0f} MB, what a fixed keep-alive of 10 minutes needs at its peak",
    )
    for name, row in ({"fixed, 10 minutes": fixed} | curves[1.0]).items():
        against, above = f"{row.cold / fixed.cold:.2f}", f"{row.cold / bounds[1.0] - 1:+.0%}"
        shares = f"{row.cold_share:.2%}", against, above, f"{row.held_mb:,.0f} MB", f"{row.wasted:.0%}"
        table.add_row(name, f"{row.cold:,}", *shares, f"{row.seconds:.1f} s")
    low = bounds[1.0]
    table.add_row("no policy below", f"{low:,}", f"{low / len(calls):.2%}", f"{low / fixed.cold:.2f}")
    Console(width=120).print(table)
    plot({share: {name: row.cold_share for name, row in rows.items()} for share, rows in curves.items()})
    if options.json:
        figures = {name: asdict(row) for name, row in curves[1.0].items()} | {"fixed, 10 minutes": asdict(fixed)}
        options.json.write_text(json.dumps({"seed": options.seed, "bound": low, "policies": figures}, indent=2) + "\n")


def replay_all(calls: Calls, budget_mb: float) -> dict[str, Result]:
    """Policy → its day under `budget_mb`, and that of one who knows the future."""
    policies = {name: make() for name, make in POLICIES.items() if name != "fixed"} | {
        "clairvoyant": Clairvoyant(calls)
    }
    return {name: Replay(policy, budget_mb).run(calls) for name, policy in policies.items()}


def plot(shares: dict[float, dict[str, float]]) -> None:
    """Memory → policy → cold share, as lines on the terminal."""
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(100, 24)
    plotext.title("cold starts in % of calls, over memory (1: what fixed keep-alive needs)")
    for name, marker in zip(shares[1.0], "LGHDC", strict=True):
        plotext.plot(list(shares), [100 * found[name] for found in shares.values()], label=name, marker=marker)
    plotext.show()


if __name__ == "__main__":
    main()
