"""``python -m gateway.ledger``: the process that settles usage records, one for each database.

It is apart from the gateways because it works where nobody waits: settling a call costs about as much processor time
as a tenth of the call itself, which in a gateway would hold up other calls. So it runs at a lower priority, and under
load the ledger may lag while calls do not. Two of them do no harm: a lease in Redis lets one settle at a time. What a
question needs is settled by the gateway that was asked (keeper.py).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from gateway.ledger import open_ledger
from jiffy.contract import address, keys, layout
from jiffy.contract.errors import JiffyError

NICENESS = 10  # about a tenth of the processor time of a process that wants as much


async def serve(ledger_url: str, redis_url: str, keep_days: int) -> None:
    """Settle until a signal. Raises Unavailable when the database or Redis can't be reached at the start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ledger = await open_ledger(ledger_url, redis_url, keep_days=keep_days)
    ledger.keep()
    try:
        await stop.wait()
    finally:
        await ledger.close()


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m gateway.ledger", description="Settles what calls cost.")
    redis, book = os.environ.get("JIFFY_REDIS"), os.environ.get("JIFFY_LEDGER")
    parser.add_argument(
        *("--redis",), default=redis, required=not redis, metavar="URL", help="the queue; default: JIFFY_REDIS"
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the platform's data folder")
    parser.add_argument(
        *("--ledger",),
        default=book,
        metavar="URL",
        help="its database; default: JIFFY_LEDGER, or SQLite in the data folder",
    )
    parser.add_argument("--keep-calls", type=int, default=0, metavar="DAYS", help="remove single calls after so long")
    given = parser.parse_args()
    os.nice(NICENESS)
    try:
        keys.share(address.parse(given.redis).name)
        asyncio.run(serve(given.ledger or layout.ledger_url(given.data), given.redis, given.keep_calls))
    except JiffyError as exc:
        print(f"ledger: {exc.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
