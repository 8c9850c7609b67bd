"""Settling, and the reason why nothing is billed twice or lost. Read this first.

    read    the oldest entries of the usage stream: what stands there is what is not settled yet
    write   one SQL transaction: names, usage rows, their sums by the hour, what could not be read, how far we are
            (and minutes of what was kept ready, likewise: provisions.py)
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
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, get_type_hints

from sqlalchemy import Connection, Engine, Table, and_, select, update

from jiffy.contract import wire
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Provision, Usage

from . import hours, provisions, retention, shelf, tables
from .database import insert_new, lock, put, writing
from .feed import Entry, Feed
from .prices import PriceBook, PriceList
from .statements import billed_in, closed_months
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
_LONG = 2**42 - 1  # 50 days in µs, 4 TB
_MOMENT = 2**47  # the year 6429
_DURATION_US = 2**42  # 50 days
_MEMORY_MB = 2**20  # a terabyte


class Step(NamedTuple):
    """What one step did."""

    read: int  # entries of the stream
    settled: int  # rows written
    repeated: int  # records that were settled before
    rejected: int  # entries put aside


Record = Usage | Provision
Row = tuple[Any, ...]  # in the order of the columns of `usage`


class Names(NamedTuple):
    """The numbers that stand for names."""

    functions: dict[tuple[str, ...], int]  # (tenant, name)
    labels: dict[tuple[str, ...], int]  # (text,)
    variants: dict[tuple[str, ...], int]  # (runtime, tags)


class Settler:
    """Moves usage records from the stream into the tables. One thread at a time."""

    def __init__(self, engine: Engine, feed: Feed, prices: PriceList, now_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._feed = feed
        self.prices = prices  # replaced when books are added
        self._now_ms = now_ms
        self._functions: dict[tuple[str, ...], int] = {}  # (tenant, name) → functions.id
        self._labels: dict[tuple[str, ...], int] = {}  # (text,) → labels.id
        self._variants: dict[tuple[str, ...], int] = {}  # (runtime, tags) → variants.id
        statement = insert_new(engine, tables.usage).compile(engine, column_keys=_COLUMNS)
        self._insert = str(statement)
        self._positional = bool(statement.positional)

    def step(self) -> Step:
        """Settle the oldest entries, at most STEP_ROWS. Raises Unavailable; may then simply be called again."""
        entries = self._feed.read(STEP_ROWS)
        if not entries:
            return Step(0, 0, 0, 0)
        records, unreadable = self._decode(entries)
        with writing(self._engine) as connection:
            lock(connection)
            records, removed = self._kept(connection, records)
            calls = [one for one in records if isinstance(one, Usage)]
            minutes = [one for one in records if isinstance(one, Provision)]
            if any(u.book and u.book not in self.prices.by_version for u in calls):
                self.prices = shelf.read_list(connection)  # published a moment ago, by another gateway
            names, closed = self._names(connection, calls, minutes), closed_months(connection)
            new = self._write(connection, self._rows(calls, names, closed))
            hours.add(connection, new, self.prices.by_version)
            settled = len(new) + self._write_minutes(connection, minutes, names, closed)
            rejected = put(connection, tables.rejected, [*unreadable, *removed])
            _move(connection, entries[-1].id, settled, len(records) - settled, rejected, self._now_ms())
        self._functions, self._labels, self._variants = names  # only now are they sure to be in the tables
        self._feed.forget(entries[-1].id)
        return Step(len(entries), settled, len(records) - settled, rejected)

    def _decode(self, entries: list[Entry]) -> tuple[list[Record], list[dict[str, object]]]:
        records: list[Record] = []
        unreadable: list[dict[str, object]] = []
        for n, entry in enumerate(entries, 1):
            try:
                records.append(provisions.decode(entry.provision) if entry.provision else decode(entry.data))
            except PlatformError as exc:
                unreadable.append(_reject(entry, exc.message, self._now_ms()))
            if n % SLICE_ROWS == 0:
                time.sleep(PAUSE_S)
        return records, unreadable

    def _kept(self, connection: Connection, records: list[Record]) -> tuple[list[Record], list[dict[str, object]]]:
        """Records that can still be told from repeated ones, and those of calls that are removed by now."""
        since_ms = retention.read(connection)
        old = [u for u in records if u.started_ms < since_ms]
        if not old:
            return records, []
        reason = "the call began before those that are still kept: it may be settled already"
        removed = [_reject(Entry(u[0], wire.pack(u)), reason, self._now_ms()) for u in old]
        return [u for u in records if u.started_ms >= since_ms], removed

    def _names(self, connection: Connection, calls: list[Usage], minutes: list[Provision]) -> Names:
        records: list[Record] = [*calls, *minutes]
        functions = {(one.tenant, one.function) for one in records}
        labels = {(text,) for u in calls for text in (u.trigger, u.invoker)}
        labels |= {(text,) for one in minutes for text in (provisions.TRIGGER, one.invoker)}
        variants = {(one.runtime, one.tags) for one in records}
        return Names(
            _ids(connection, tables.functions, ("tenant", "name"), self._functions, functions),
            _ids(connection, tables.labels, ("text",), self._labels, labels),
            _ids(connection, tables.variants, ("runtime", "tags"), self._variants, variants),
        )

    def _write_minutes(
        self, connection: Connection, minutes: list[Provision], names: Names, closed: Mapping[str, set[int]]
    ) -> int:
        """Writes them into rows and sums; returns how many are new."""
        if not minutes:
            return 0
        rows = [
            provisions.row(
                one,
                *(names.functions[one.tenant, one.function], names.variants[one.runtime, one.tags]),
                *(names.labels[one.invoker,], self.prices.at(one.started_ms).version),
                billed_in(one.started_ms, closed[one.tenant]) if one.tenant in closed else 0,
            )
            for one in minutes
        ]
        new = provisions.write(connection, rows)
        hours.add_minutes(connection, new, names.labels[provisions.TRIGGER,])
        return len(new)

    def _rows(self, records: list[Usage], names: Names, closed: Mapping[str, set[int]]) -> list[Row]:
        rows: list[Row] = []
        for n, u in enumerate(records, 1):
            late = billed_in(u.started_ms, closed[u.tenant]) if u.tenant in closed else 0
            rows.append(_row(u, names, self._book(u).version, late))
            if n % SLICE_ROWS == 0:
                time.sleep(PAUSE_S)
        return rows

    def _write(self, connection: Connection, rows: list[Row]) -> list[Row]:
        """Inserts the rows; returns those that were not there yet."""
        attempt = connection.begin_nested()
        written = 0
        for start in range(0, len(rows), SLICE_ROWS):
            # Straight to the driver: a third of the time that SQLAlchemy's own executemany takes.
            part: Any = [self._parameters(row) for row in rows[start : start + SLICE_ROWS]]
            written += connection.exec_driver_sql(self._insert, part).rowcount
            time.sleep(PAUSE_S)
        if written == len(rows):
            attempt.commit()
            return rows
        attempt.rollback()  # some were repeated: find out which
        return [row for row in rows if connection.exec_driver_sql(self._insert, self._parameters(row)).rowcount]

    def _parameters(self, row: Row) -> Any:
        return row if self._positional else dict(zip(_COLUMNS, row, strict=True))

    def _book(self, record: Usage) -> PriceBook:
        """The one that the invoker metered by; else the one that was in force."""
        return self.prices.by_version.get(record.book) or self.prices.at(record.started_ms)


def decode(data: bytes | None) -> Usage:
    """The usage record in an entry, checked: what passes here can be stored and summed. Raises PlatformError."""
    if data is None:
        raise PlatformError("the entry has no usage record")
    record = wire.unpack(Usage, data)
    if tuple(map(type, record)) != _TYPES:
        raise PlatformError(f"a field is of a wrong type: {record!r:.300}")
    if not _UUID.fullmatch(record.invocation):
        raise PlatformError(f"invocation {record.invocation!r:.60} is no UUID")
    names = f"{record.tenant}{record.function}{record.trigger}{record.invoker}{record.runtime}{record.tags}"
    if len(names) > _NAMES_MAX_CHARS or "\0" in names:
        raise PlatformError(f"a name is too long or holds a NUL: {names!r:.60}")
    if record.outcome not in _CODES:
        raise PlatformError(f"outcome {record.outcome!r:.60} is unknown")
    if not _believable(record):
        raise PlatformError(f"a number is negative or out of range: {record!r:.300}")
    return record


def _believable(u: Usage) -> bool:
    """Are all numbers in bounds? An OR is negative when one is, and no smaller than any (bounds: all ones)."""
    small = u.attempt | u.revision | u.billed_ms | u.book
    large = small | u.init_us | u.queue_us | u.max_memory_bytes | u.cpu_us | u.bytes_in | u.bytes_out
    return (
        0 <= small <= _INT
        and 0 <= large <= _LONG
        and 0 <= u.memory_mb <= _MEMORY_MB
        and 0 <= u.started_ms <= _MOMENT
        and 0 <= u.duration_us <= _DURATION_US
    )


_COLUMNS = [column.name for column in tables.usage.columns]


def _row(u: Usage, names: Names, book: int, late: int) -> Row:
    outcome, billable = _CODES[u.outcome]
    return (
        bytes.fromhex(u.invocation.replace("-", "")),
        u.attempt,
        names.functions[u.tenant, u.function],
        u.revision,
        names.labels[u.trigger,],
        names.labels[u.invoker,],
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
        names.variants[u.runtime, u.tags],
        late,
    )


def _ids(
    connection: Connection,
    table: Table,
    columns: tuple[str, ...],
    known: dict[tuple[str, ...], int],
    wanted: AbstractSet[tuple[str, ...]],
) -> dict[tuple[str, ...], int]:
    """`known`, with the numbers of all `wanted` names; names that are new get one."""
    missing = sorted(wanted - known.keys())
    if not missing:
        return known
    put(connection, table, [dict(zip(columns, name, strict=True)) for name in missing])
    found = dict(known)
    for name in missing:
        named = and_(*(table.c[column] == value for column, value in zip(columns, name, strict=True)))
        found[name] = connection.execute(select(table.c.id).where(named)).scalar_one()
    return found


def _reject(entry: Entry, reason: str, at_ms: int) -> dict[str, object]:
    content = entry.data or entry.provision or b""
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
