"""How long single calls are kept. Their sums by the hour and by the day stay for ever, so no statement changes.

What is removed is remembered (settlement.kept_since_ms): a record of before that moment is never settled again, since
the row that would turn a repeated one away is gone. Whole days are removed, a few rows at a time.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, delete, select, tuple_, update

from . import tables
from .database import lock, reading, writing

DAY_MS = 86_400_000
STEP_ROWS = 1000  # about 20 ms in which nothing is settled

_ROW = tables.settlement.c


def horizon_ms(now_ms: int, keep_days: int) -> int:
    """The first moment whose calls are kept."""
    return (now_ms // DAY_MS - keep_days) * DAY_MS


def forget(engine: Engine, before_ms: int) -> int:
    """Removes some rows of calls that began before a moment; returns how many: 0 when none is left. Blocking."""
    with writing(engine) as connection:
        lock(connection)
        older = _ROW.kept_since_ms < before_ms
        connection.execute(update(tables.settlement).where(older).values(kept_since_ms=before_ms))
        removed = 0
        for table in (tables.usage, tables.provisions):
            key = list(table.primary_key)
            oldest = select(*key).where(table.c.started_ms < before_ms).order_by(table.c.started_ms).limit(STEP_ROWS)
            removed += connection.execute(delete(table).where(tuple_(*key).in_(oldest))).rowcount
        connection.execute(update(tables.settlement).values(removed=_ROW.removed + removed))
        return removed


def kept_since(engine: Engine) -> int:
    """From when on single calls are there; 0: from the beginning. Blocking."""
    with reading(engine) as connection:
        return read(connection)


def read(connection: Connection) -> int:
    return int(connection.scalar(select(_ROW.kept_since_ms)) or 0)
