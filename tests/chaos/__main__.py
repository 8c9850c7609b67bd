"""``python -m tests.chaos``: a run of any length; exits with 1 when a promise was broken, and how to run it again."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Plan, run, troubles


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Breaks a platform and reads its books.")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--calls", type=int, default=10**9, metavar="N", help="end after so many, if that is sooner")
    parser.add_argument("--gateways", type=int, default=2, metavar="N")
    parser.add_argument("--invokers", type=int, default=3, metavar="N")
    parser.add_argument("--callers", type=int, default=3, metavar="N", help="of every kind")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="mean time between two events")
    parser.add_argument(
        *("--with",),
        dest="parts",
        metavar="PART,…",
        help=f"of {', '.join(troubles())}, or nothing; default: all that can be had here, but sentinel",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the processes' logs and data there")
    given = parser.parse_args()
    parts = _parts(parser, given.parts)
    plan = Plan(
        *(given.seed, given.minutes * 60, given.calls, given.gateways, given.invokers, given.callers, given.every),
        frozenset(parts),
    )
    print(plan, flush=True)
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jiffy-chaos-")))
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # functions' users enter it
        report = asyncio.run(run(plan, folder, lambda line: print(line, flush=True)))
    print(f"events: {report.events}\ncalls: {report.counts}\nasynchronous: {report.ends}")
    print(f"processes that ended by themselves: {report.restarts}")
    print(
        f"promised: {report.accepted} accepted, {report.answered} answered, {report.keyed} keys, "
        f"{report.published} events"
    )
    for line in report.broken[:50]:
        print(f"BROKEN {line}")
    print(f"{len(report.broken)} promises were broken" if report.broken else "the books balance to the call")
    return 1 if report.broken else 0


def _parts(parser: argparse.ArgumentParser, given: str | None) -> set[str]:
    """What the run has beside processes; ends with an error when it can't have what was asked for."""
    found = troubles()
    if given is None:
        for trouble in filter(None, found.values()):
            print(f"without: {trouble}", flush=True)
        return {name for name, trouble in found.items() if not trouble} - {"sentinel"}
    wanted = set(given.split(",")) - {"nothing"}
    if "sentinel" in wanted and wanted & {"hosts", "disk"}:
        parser.error("sentinel's servers are on this host: without hosts and disk")
    for name in wanted:
        if trouble := found.get(name, f"there is no {name!r}: say some of {', '.join(found)}"):
            parser.error(trouble)
    return wanted


if __name__ == "__main__":
    sys.exit(main())
