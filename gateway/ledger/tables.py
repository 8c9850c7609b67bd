"""The ledger's tables. Holds no rule about money; read settle.py for what fills them, database.py for how they are
reached, migrations/ for how older ones become these.

Only whole numbers: µs, ms, bytes, MB. One attempt takes 148 bytes on disk, indexes included: ids are 16 bytes,
names that repeat stand once in `functions`, `labels` and `variants`. Sums come from `days` and `hours`, which are
written in the same transaction as the attempts in them: a month is added up from some thousand rows.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)

from jiffy.contract.messages import Outcome

SCHEMA = "6"  # the newest revision in migrations/

# Stored as numbers to keep rows short. A number, once given, keeps its meaning for ever.
OUTCOMES = {
    Outcome.OK: 0,
    Outcome.ERROR: 1,
    Outcome.TIMEOUT: 2,
    Outcome.OUT_OF_MEMORY: 3,
    Outcome.CRASH: 4,
    Outcome.THROTTLED: 5,
    Outcome.PLATFORM: 6,
}

metadata = MetaData()


def _number(name: str, kind: type[Integer] = BigInteger) -> Column[int]:
    return Column(name, kind, nullable=False)


def _later(name: str, kind: type[Integer] = Integer) -> Column[int]:
    """A column that older tables did not have: its rows there read 0."""
    return Column(name, kind, nullable=False, server_default="0")


def _key(name: str, kind: type[Integer] = Integer) -> Column[int]:
    return Column(name, kind, primary_key=True, autoincrement=False)


price_books = Table(
    "price_books",
    metadata,
    _key("version"),
    _number("effective_from_ms"),
    Column("currency", String, nullable=False),
    Column("document", String, nullable=False),  # JSON: bookfile.document
)

functions = Table(
    "functions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("name", String, nullable=False),
    UniqueConstraint("tenant", "name"),
)

labels = Table(  # triggers and invokers
    "labels",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("text", String, nullable=False, unique=True),
)

variants = Table(  # what a revision brings along that is priced or asked for; 0 is none of either
    "variants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("runtime", String, nullable=False),
    Column("tags", String, nullable=False),  # as Usage.tags
    UniqueConstraint("runtime", "tags"),
)

usage = Table(
    "usage",
    metadata,
    Column("invocation", LargeBinary(16), primary_key=True),  # a UUIDv7, so that new rows are neighbours
    _key("attempt"),
    _number("function", Integer),  # functions.id
    _number("revision", Integer),
    _number("trigger", Integer),  # labels.id
    _number("invoker", Integer),  # labels.id
    _number("outcome", SmallInteger),  # OUTCOMES
    _number("cold", SmallInteger),
    _number("book", Integer),  # price_books.version
    _number("started_ms"),
    _number("duration_us"),
    _number("billed_ms"),
    _number("init_us"),
    _number("queue_us"),
    _number("memory_mb"),
    _number("max_memory_bytes"),
    _number("cpu_us"),
    _number("bytes_in"),
    _number("bytes_out"),
    _later("variant"),  # variants.id
    _later("late"),  # month (months.py) on whose bill it stands because its own was closed; 0: its own
    sqlite_with_rowid=False,
)
Index("usage_by_time", usage.c.started_ms, usage.c.invocation, usage.c.attempt)
Index("usage_by_function", usage.c.function, usage.c.started_ms)


provisions = Table(  # minutes of provisioned capacity, as invokers report them
    "provisions",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    *(_number(name, Integer) for name in ("function", "revision", "variant", "invoker", "book")),  # as in `usage`
    *(_number(name) for name in ("memory_mb", "started_ms", "provisioned_ms", "idle_ms")),
    _later("late"),
    sqlite_with_rowid=False,
)
Index("provisions_by_time", provisions.c.started_ms)


def _sums(name: str, unit: str) -> Table:
    """Sums of `usage` and `provisions` by a unit of time (numbered since 1970, of started_ms), kept for ever."""
    added = {"provisioned_ms", "idle_ms"}
    return Table(
        name,
        metadata,
        *(_key(column) for column in (unit, *SUM_KEYS)),
        *(_number(column) for column in (*SUMS, "max_memory_bytes") if column not in added),
        *(_later(column, BigInteger) for column in SUMS if column in added),
        sqlite_with_rowid=False,
    )


SUM_KEYS = ("function", "revision", "variant", "trigger", "memory_mb", "book", "late")
SUMS = (
    "calls",
    "charged",  # those that have billed time
    "failed",  # charged, and not ok
    "cold",
    "duration_us",
    "charged_us",  # time used by the charged ones, cold starts included where the book bills them
    "billed_ms",
    *("init_us", "queue_us", "cpu_us", "bytes_in", "bytes_out"),
    *("provisioned_ms", "idle_ms"),  # of instances kept ready, called or not
)  # and the largest max_memory_bytes
hours = _sums("hours", "hour")
days = _sums("days", "day")

rejected = Table(  # records that could not be read: put aside, for a person to look at
    "rejected",
    metadata,
    Column("key", LargeBinary(32), primary_key=True),  # SHA-256 over stream id and content
    Column("entry", String, nullable=False),  # stream id
    Column("reason", String, nullable=False),
    Column("content", LargeBinary, nullable=False),
    _number("at_ms"),
)

settlement = Table(  # one row: how far the ledger is; locked by whoever settles
    "settlement",
    metadata,
    _key("id"),
    Column("position", String, nullable=False),  # id of the last stream entry settled
    _number("settled"),  # rows of `usage` and `provisions` written
    _number("repeated"),  # records that were there already
    _number("rejected"),
    _number("at_ms"),
    _later("kept_since_ms", BigInteger),  # rows from before were removed: retention.py
    _later("removed", BigInteger),  # how many
)

statements = Table(  # of closed months: never changed
    "statements",
    metadata,
    _key("number"),  # 1, 2, 3 … over all tenants
    Column("tenant", String, nullable=False),
    _number("month", Integer),  # months.py
    _number("closed_ms"),
    Column("document", String, nullable=False),  # JSON: statements.py
    UniqueConstraint("tenant", "month"),
)

schema_version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))
