"""How large a ledger gets and how quickly it answers. ``python -m tests.benchmarks.ledger [--calls 10000000]``

A month of calls goes through the settler, as invokers meter them: 50 functions, two revisions each, four triggers,
durations from a lognormal. Then a month's statement and other questions are timed. ``--copied``: only the first day is
settled, and SQL makes the others of it, which takes a fifth of the time. ``--ledger URL``: an empty PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uuid_utils
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from gateway.ledger import bookfile, comparison, database, months, questions, shelf, statements, tables
from gateway.ledger.feed import Entry
from gateway.ledger.hours import HOUR_MS
from gateway.ledger.questions import By, Question
from gateway.ledger.settle import Settler
from jiffy.contract import meter, wire
from jiffy.contract.messages import Outcome, Usage

NOVEMBER = months.parse("2026-11")
SINCE_MS, UNTIL_MS = months.bounds_ms(NOVEMBER)
FUNCTIONS, TRIGGERS = 50, ("http", "invoke", "route GET /x", "route POST /items/{id}")
KINDS = 20_000  # different calls; ids and times are every call's own


DAY_MS, DAYS = 86_400_000, 30


class Month:
    """A feed of `count` calls that began one after the other all through November, or its first `days`."""

    def __init__(self, count: int, days: int = DAYS) -> None:
        self._count, self._sent, self._span_ms = count, 0, days * DAY_MS
        chance = random.Random(1)
        self._kinds = [_kind(chance) for _ in range(min(count, KINDS))]

    def read(self, count: int) -> list[Entry]:
        entries = []
        for n in range(self._sent, min(self._sent + count, self._count)):
            at_ms = SINCE_MS + self._span_ms * n // self._count
            # A UUIDv7 of that moment: its first 48 bits are the time, which keeps new rows neighbours.
            text = f"{at_ms:012x}{uuid_utils.uuid4().hex[12:]}"
            text = f"{text[:8]}-{text[8:12]}-7{text[13:16]}-{text[16:20]}-{text[20:]}"
            usage = self._kinds[n % len(self._kinds)]._replace(invocation=text, started_ms=at_ms)
            entries.append(Entry(f"{n}-0", wire.pack(usage)))
        return entries

    def forget(self, last: str) -> None:
        self._sent = int(last.partition("-")[0]) + 1

    def waiting(self) -> int:
        return self._count - self._sent

    def lease(self, holder: str, ttl_ms: int) -> bool:
        return True

    def close(self) -> None: ...


def _kind(chance: random.Random) -> Usage:
    duration_us = int(chance.lognormvariate(10.5, 1.2))
    number, revision = chance.randrange(FUNCTIONS), chance.choice((1, 2))
    memory_mb, tags = (128, 256, 512)[(number + revision) % 3], ("", "team=x", "team=y")[number % 3]
    cold = chance.random() < 0.02
    return Usage(
        *("", 1, "default", f"function-{number}", revision, chance.choice(TRIGGERS)),
        *(f"host-{chance.randrange(3)}", 0, (Outcome.OK if chance.random() < 0.98 else Outcome.ERROR).value, cold),
        *(duration_us, meter.billed_ms(duration_us, Outcome.OK), 40_000 if cold else 0, chance.randrange(2000)),
        *(memory_mb, chance.randrange(20, 100) * 2**20, duration_us // 2),
        *(chance.randrange(2000), chance.randrange(20_000), 1, "python3.11", tags),
    )


def copy_first_day(path: Path) -> None:
    """Makes the other days of November of the first one: the same rows, with ids and times of their own."""

    def moved(invocation: bytes, ms: int) -> bytes:
        at_ms = int.from_bytes(invocation[:6], "big") + ms
        return at_ms.to_bytes(6, "big") + invocation[6:]

    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_function("moved", 2, moved, deterministic=True)
    for table, moment, unit_ms in (("usage", "started_ms", 1), ("hours", "hour", HOUR_MS), ("days", "day", DAY_MS)):
        columns = tables.metadata.tables[table].columns.keys()
        changed = {"invocation": "moved(invocation, :ms)", moment: f"{moment} + :ms / {unit_ms}"}
        wanted = ", ".join(changed.get(name, f'"{name}"') for name in columns)
        where = f"{moment} >= :since / {unit_ms} AND {moment} < :until / {unit_ms}"
        insert = f"INSERT INTO {table} SELECT {wanted} FROM {table} WHERE {where} ORDER BY {moment}"
        for day in range(1, DAYS):
            connection.execute(insert, {"ms": day * DAY_MS, "since": SINCE_MS, "until": SINCE_MS + DAY_MS})
    connection.close()


def size(engine: Engine, path: Path) -> int:
    """Bytes on disk, indexes included."""
    if engine.dialect.name == "sqlite":
        return path.stat().st_size
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT pg_database_size(current_database())")
        return int(found.scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000_000)
    parser.add_argument("--copied", action="store_true", help="settle the first day only, copy it (SQLite)")
    parser.add_argument("--ledger", metavar="URL", help="an empty PostgreSQL in place of SQLite")
    given = parser.parse_args()
    calls, settled = given.calls, given.calls // DAYS if given.copied else given.calls
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        engine = database.connect(given.ledger or f"sqlite:///{path}")
        kind = f"{engine.dialect.name}{', a day of them settled and copied' if given.copied else ''}"
        table = Table("figure", "measured", "aim", title=f"{calls:,} calls, {kind}, {os.cpu_count()} processors")
        empty = size(engine, path) if given.ledger else 0
        shelf.open_shelf(engine, None, lambda: 0)
        feed = Month(settled, 1 if given.copied else DAYS)
        settler = Settler(engine, feed, bookfile.shipped(), lambda: UNTIL_MS)
        began = time.process_time(), time.monotonic()
        while settler.step().read:
            pass
        cpu_s, took_s = time.process_time() - began[0], time.monotonic() - began[1]
        table.add_row("settled, the making of the records included", f"{settled / took_s:,.0f} a second", "")
        table.add_row("processor time of one", f"{cpu_s / settled * 1e6:.0f} µs", "")
        engine.dispose()  # the last connection writes the journal back
        if given.copied:
            copy_first_day(path)
        table.add_row("on disk", f"{(size(engine, path) - empty) / calls:.1f} bytes a call", "150")
        span = Question("default", since_ms=SINCE_MS, until_ms=UNTIL_MS)
        asked: dict[str, tuple[str, Callable[[], object]]] = {
            "a month's statement, per function": ("1 s", lambda: statements.statement(engine, "default", NOVEMBER, 0)),
            "by function, from and to the middle of an hour": ("1 s", lambda: _ask(engine, By.FUNCTION, 1_800_000)),
            "by hour": ("", lambda: _ask(engine, By.HOUR, 0)),
            "by call: a page, with the month's total": ("", lambda: _ask(engine, By.CALL, 0)),
            "the ten dearest calls (reads all of them)": (
                *("", lambda: questions.answer(engine, Question("default", month=NOVEMBER, dearest=True, limit=10))),
            ),
            "compared with another book (reads all of them)": (
                *("", lambda: comparison.compare(engine, span, bookfile.example("aws-lambda"))),
            ),
        }
        for name, (aim, ask) in asked.items():
            began = time.process_time(), time.monotonic()
            ask()
            cpu_s, took_s = time.process_time() - began[0], time.monotonic() - began[1]
            table.add_row(name, f"{took_s:.2f} s, {cpu_s:.2f} s of a processor", aim)
        engine.dispose()
    Console(width=120).print(table)


def _ask(engine: Engine, by: By, off_ms: int) -> object:
    span = Question("default", by, since_ms=SINCE_MS + off_ms, until_ms=UNTIL_MS - off_ms)
    return questions.answer(engine, span)


if __name__ == "__main__":
    main()
