"""Settling, and the reason why nothing is billed twice or lost. Read this first.

    read    the oldest entries of the usage stream: what stands there is what is not settled yet
    write   one SQL transaction: names, usage rows, what could not be read, how far we are
    forget  the entries, once that transaction is on disk

A crash before the commit leaves the entries where they are; a crash after it makes them come again, and the primary
key (invocation, attempt) turns them away. So any gateway may settle at any time, two at once too, and no stream id is
ever trusted to be larger than an older one: Redis may have been emptied, restored or replaced in between.

Settling runs in a thread beside the gateway's event loop; it pauses often, so that no call waits for it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_type_hints

from sqlalchemy import Connection, Engine, Table, and_, select, update

from jiffy.contract import wire
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Usage

from . import tables
from .feed import Entry, Feed
from .prices import PriceList
from .tables import OUTCOMES

STEP_ROWS = 1024  # one transaction: about 20 ms, and one flush to disk
SLICE_ROWS = 64  # rows between two pauses: about 0.2 ms in which the event loop can't run
PAUSE_S = 0.0001

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMES_MAX_CHARS = 4096  # tenant, function, trigger and invoker together are far shorter
_TYPES = tuple(get_type_hints(Usage).values())
_CODES = {outcome.value: (code, outcome.billable) for outcome, code in OUTCOMES.items()}

# The largest believable values, so that no product and no sum of them leaves 63 bits, nor PostgreSQL's integers.
_INT = 2**31 - 1  # 24 days of billed time
_LONG = 2**53 - 1
_MOMENT = 2**47  # the year 6429
_DURATION_US = 2**42  # 50 days
_MEMORY_MB = 2**20  # a terabyte


class Step(NamedTuple):
    """What one step did."""

    read: int  # entries of the stream
    settled: int  # usage rows written
    repeated: int  # records that were settled before
    rejected: int  # entries put aside


class Settler:
    """Moves usage records from the stream into the tables. One thread at a time."""

    def __init__(self, engine: Engine, feed: Feed, prices: PriceList, now_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._feed = feed
        self._prices = prices
        self._now_ms = now_ms
        self._functions: dict[tuple[str, ...], int] = {}  # (tenant, name) → functions.id
        self._labels: dict[tuple[str, ...], int] = {}  # (text,) → labels.id
        statement = tables.insert_new(engine, tables.usage).compile(engine, column_keys=_COLUMNS)
        self._insert = str(statement)
        self._positional = bool(statement.positional)

    def step(self) -> Step:
        """Settle the oldest entries, at most STEP_ROWS. Raises Unavailable; may then simply be called again."""
        entries = self._feed.read(STEP_ROWS)
        if not entries:
            return Step(0, 0, 0, 0)
        records, unreadable = self._decode(entries)
        with tables.writing(self._engine) as connection:
            tables.lock(connection)
            functions = _ids(connection, tables.functions, ("tenant", "name"), self._functions, _functions(records))
            labels = _ids(connection, tables.labels, ("text",), self._labels, _labels(records))
            settled = self._write(connection, records, functions, labels)
            rejected = tables.put(connection, tables.rejected, unreadable)
            _move(connection, entries[-1].id, settled, len(records) - settled, rejected, self._now_ms())
        self._functions, self._labels = functions, labels  # only now are they sure to be in the tables
        self._feed.forget(entries[-1].id)
        return Step(len(entries), settled, len(records) - settled, rejected)

    def _decode(self, entries: list[Entry]) -> tuple[list[Usage], list[dict[str, object]]]:
        records: list[Usage] = []
        unreadable: list[dict[str, object]] = []
        for n, entry in enumerate(entries, 1):
            try:
                records.append(decode(entry.data))
            except PlatformError as exc:
                unreadable.append(_reject(entry, exc.message, self._now_ms()))
            if n % SLICE_ROWS == 0:
                time.sleep(PAUSE_S)
        return records, unreadable

    def _write(
        self,
        connection: Connection,
        records: list[Usage],
        functions: Mapping[tuple[str, ...], int],
        labels: Mapping[tuple[str, ...], int],
    ) -> int:
        written = 0
        for start in range(0, len(records), SLICE_ROWS):
            rows: Any = [
                _row(u, functions[u.tenant, u.function], labels[u.trigger,], labels[u.invoker,], self._book(u))
                for u in records[start : start + SLICE_ROWS]
            ]
            if not self._positional:
                rows = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
            # Straight to the driver: a third of the time that SQLAlchemy's own executemany takes.
            written += connection.exec_driver_sql(self._insert, rows).rowcount
            time.sleep(PAUSE_S)
        return written

    def _book(self, record: Usage) -> int:
        return self._prices.at(record.started_ms).version


def decode(data: bytes | None) -> Usage:
    """The usage record in an entry, checked: what passes here can be stored and summed. Raises PlatformError."""
    if data is None:
        raise PlatformError("the entry has no usage record")
    record = wire.unpack(Usage, data)
    if tuple(map(type, record)) != _TYPES:
        raise PlatformError(f"a field is of a wrong type: {record!r:.300}")
    if not _UUID.fullmatch(record.invocation):
        raise PlatformError(f"invocation {record.invocation!r:.60} is no UUID")
    names = f"{record.tenant}{record.function}{record.trigger}{record.invoker}"
    if len(names) > _NAMES_MAX_CHARS or "\0" in names:
        raise PlatformError(f"a name is too long or holds a NUL: {names!r:.60}")
    if record.outcome not in _CODES:
        raise PlatformError(f"outcome {record.outcome!r:.60} is unknown")
    if not _believable(record):
        raise PlatformError(f"a number is negative or out of range: {record!r:.300}")
    return record


def _believable(u: Usage) -> bool:
    """Are all numbers in bounds? An OR is negative when one is, and no smaller than any (bounds: all ones)."""
    small = u.attempt | u.revision | u.billed_ms
    large = small | u.init_us | u.queue_us | u.max_memory_bytes | u.cpu_us | u.bytes_in | u.bytes_out
    return (
        0 <= small <= _INT
        and 0 <= large <= _LONG
        and 0 <= u.memory_mb <= _MEMORY_MB
        and 0 <= u.started_ms <= _MOMENT
        and 0 <= u.duration_us <= _DURATION_US
    )


_COLUMNS = [column.name for column in tables.usage.columns]


def _row(u: Usage, function: int, trigger: int, invoker: int, book: int) -> tuple[object, ...]:
    """One row of `usage`, in the order of its columns."""
    outcome, billable = _CODES[u.outcome]
    return (
        bytes.fromhex(u.invocation.replace("-", "")),
        u.attempt,
        function,
        u.revision,
        trigger,
        invoker,
        outcome,
        int(u.cold),
        book,
        u.started_ms,
        u.duration_us,
        u.billed_ms if billable else 0,  # no billed time, no price: see docs/billing.md
        u.init_us,
        u.queue_us,
        u.memory_mb,
        u.max_memory_bytes,
        u.cpu_us,
        u.bytes_in,
        u.bytes_out,
    )


def _functions(records: Iterable[Usage]) -> set[tuple[str, ...]]:
    return {(u.tenant, u.function) for u in records}


def _labels(records: Iterable[Usage]) -> set[tuple[str, ...]]:
    return {(text,) for u in records for text in (u.trigger, u.invoker)}


def _ids(
    connection: Connection,
    table: Table,
    columns: tuple[str, ...],
    known: dict[tuple[str, ...], int],
    wanted: set[tuple[str, ...]],
) -> dict[tuple[str, ...], int]:
    """`known`, with the numbers of all `wanted` names; names that are new get one."""
    missing = sorted(wanted - known.keys())
    if not missing:
        return known
    tables.put(connection, table, [dict(zip(columns, name, strict=True)) for name in missing])
    found = dict(known)
    for name in missing:
        named = and_(*(table.c[column] == value for column, value in zip(columns, name, strict=True)))
        found[name] = connection.execute(select(table.c.id).where(named)).scalar_one()
    return found


def _reject(entry: Entry, reason: str, at_ms: int) -> dict[str, object]:
    content = entry.data or b""
    key = hashlib.sha256(entry.id.encode() + b"\0" + content).digest()
    return {"key": key, "entry": entry.id, "reason": reason[:500].replace("\0", ""), "content": content, "at_ms": at_ms}


def _move(connection: Connection, position: str, settled: int, repeated: int, rejected: int, at_ms: int) -> None:
    row = tables.settlement
    connection.execute(
        update(row)
        .where(row.c.id == 1)
        .values(
            position=position,
            settled=row.c.settled + settled,
            repeated=row.c.repeated + repeated,
            rejected=row.c.rejected + rejected,
            at_ms=at_ms,
        )
    )
