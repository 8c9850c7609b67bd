"""The one way to the ledger's database: connect, bring its tables up to date, read, write.

The SQL is the part that SQLite and PostgreSQL share. Every database error leaves here as `Unavailable`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, insert, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from jiffy.contract.errors import Unavailable

from .tables import SCHEMA, metadata, schema_version, settlement, usage, variants

SCHEMA_LOCK = 0x6A696666  # any number of our own: "jiff"
BUSY_S = 10  # how long one writer waits for another; a settling step takes milliseconds


def connect(url: str) -> Engine:
    """The database at `url` (``sqlite:////folder/ledger.sqlite3``, ``postgresql+psycopg://…``), tables up to date."""
    try:
        engine = create_engine(url)
    except ImportError as exc:
        raise Unavailable(
            f"the ledger's URL needs a driver that is not here ({exc.name}): pip install 'jiffy[postgresql]' and write "
            "postgresql+psycopg://…"
        ) from exc
    except SQLAlchemyError as exc:
        raise Unavailable(f"the ledger's URL is not usable: {exc}") from exc
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    try:
        with writing(engine) as connection:
            if engine.dialect.name == "postgresql":  # several gateways start at once
                connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            bring_up_to_date(connection)
    except Unavailable:
        engine.dispose()
        raise
    return engine


def bring_up_to_date(connection: Connection) -> None:
    """Makes the tables, or turns those of an older release into today's. Raises Unavailable for a newer release's."""
    there = set(inspect(connection).get_table_names())
    if not there & {usage.name, schema_version.name}:
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version_num=SCHEMA))
        first = {"id": 1, "position": "", "settled": 0, "repeated": 0, "rejected": 0, "at_ms": 0}
        connection.execute(insert(settlement).values(first))
        connection.execute(insert(variants).values(id=0, runtime="", tags=""))
        return
    known = connection.scalar(select(schema_version.c.version_num)) if schema_version.name in there else "1"
    if known != SCHEMA:
        # Imported when it is needed: Alembic takes longer to load than a gateway does to start.
        importlib.import_module(f"{__package__}.migrations").upgrade(connection, str(known), SCHEMA)


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
    return insert_into(engine, table).on_conflict_do_nothing()


def insert_into(engine: Engine, table: Table) -> Any:
    """INSERT with the ON CONFLICT clauses of the dialect."""
    return (postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert)(table)


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
    if engine.url.database:
        _keep_private(engine.url.database)

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


def _keep_private(path: str) -> None:
    """The ledger is nobody else's, whoever makes it: SQLite gives the files beside it the mode that it finds here."""
    with suppress(OSError):  # it is there, or it can't be made: SQLite says why. Opened, it would lose SQLite's locks
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(OSError):
            os.chmod(name, 0o600)  # noqa: PTH101


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", None) or exc).strip().splitlines()[0]
        where = engine.url.render_as_string(hide_password=True)
        raise Unavailable(f"the ledger at {where} does not answer: {reason}", retry_after_s=1) from exc
