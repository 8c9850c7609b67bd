"""The ledger's tables, and the one way to its database. Holds no rule about money; read settle.py for what fills them.

Only whole numbers: µs, ms, bytes, MB. One attempt takes about 140 bytes on disk, indexes included: ids are 16 bytes,
names that repeat stand once in `functions` and `labels`. The SQL is the part that SQLite and PostgreSQL share.
Every database error leaves here as `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Outcome

SCHEMA_LOCK = 0x6A696666  # any number of our own: "jiff"
BUSY_S = 10  # how long one writer waits for another; a settling step takes milliseconds

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


price_books = Table(
    "price_books",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    _number("effective_from_ms"),
    Column("currency", String, nullable=False),
    Column("per_gb_second", String, nullable=False),  # exact decimals
    Column("per_call", String, nullable=False),
    _number("step_ms", Integer),
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

usage = Table(
    "usage",
    metadata,
    Column("invocation", LargeBinary(16), primary_key=True),  # a UUIDv7, so that new rows are neighbours
    Column("attempt", Integer, primary_key=True, autoincrement=False),
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
    sqlite_with_rowid=False,
)
Index("usage_by_time", usage.c.started_ms, usage.c.invocation, usage.c.attempt)
Index("usage_by_function", usage.c.function, usage.c.started_ms)

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
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", String, nullable=False),  # id of the last stream entry settled
    _number("settled"),  # usage rows written
    _number("repeated"),  # records that were there already
    _number("rejected"),
    _number("at_ms"),
)


def connect(url: str) -> Engine:
    """The database at `url` (``sqlite:////folder/ledger.sqlite3``, ``postgresql+psycopg://…``), tables made."""
    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ImportError) as exc:
        raise Unavailable(f"the ledger's URL is not usable: {exc}") from exc
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    try:
        with writing(engine) as connection:
            if engine.dialect.name == "postgresql":  # several gateways start at once
                connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            metadata.create_all(connection)
            put(
                connection,
                settlement,
                [{"id": 1, "position": "", "settled": 0, "repeated": 0, "rejected": 0, "at_ms": 0}],
            )
    except Unavailable:
        engine.dispose()
        raise
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that commits unless the block raises. On SQLite it holds the write lock from its first moment."""
    with _translated(engine), _transaction(engine, jiffy_begin="BEGIN IMMEDIATE") as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction in which everything read is of one moment."""
    level = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with _translated(engine), _transaction(engine, **level) as connection:
        yield connection


def put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
    """Insert rows; those whose key is there already stay as they are. Returns how many were new."""
    statement = insert_new(connection.engine, table).execution_options(preserve_rowcount=True)
    return sum(connection.execute(statement, row).rowcount for row in rows)


def insert_new(engine: Engine, table: Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING, which SQLAlchemy spells per dialect."""
    kind = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    return kind(table).on_conflict_do_nothing()


def lock(connection: Connection) -> None:
    """Wait until no one else settles. (SQLite: BEGIN IMMEDIATE already did.)"""
    connection.execute(select(settlement.c.id).where(settlement.c.id == 1).with_for_update())


@contextmanager
def _transaction(engine: Engine, **options: str) -> Iterator[Connection]:
    with engine.connect() as connection:
        connection.execution_options(**options)
        with connection.begin():
            yield connection


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def opened(raw: Any, _record: object) -> None:
        raw.isolation_level = None  # the driver shall begin nothing by itself
        raw.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000}")
        raw.execute("PRAGMA journal_mode = WAL")  # questions don't wait for settling
        # A record leaves Redis once it is committed here, so the commit must have reached the disk.
        raw.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("jiffy_begin", "BEGIN"))


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", None) or exc).strip().splitlines()[0]
        where = engine.url.render_as_string(hide_password=True)
        raise Unavailable(f"the ledger at {where} does not answer: {reason}", retry_after_s=1) from exc
