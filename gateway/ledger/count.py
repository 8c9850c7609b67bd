"""How many attempts the ledger has, for `jiffy audit`: what it says it settled, and what is really there."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Engine, func, select

from . import database, tables


class Count(NamedTuple):
    settled: int  # rows ever written, of attempts and of provisioned minutes
    rejected: int  # records put aside because they could not be read
    rows: int  # of them, those that are there or were removed because they were old
    doubles: int  # (invocation, attempt) that are there more than once


def count(engine: Engine) -> Count:
    """All of one moment. Raises Unavailable."""
    row, usage = tables.settlement.c, tables.usage
    key = (usage.c.invocation, usage.c.attempt)
    repeated = select(key[0]).group_by(*key).having(func.count() > 1).subquery()
    with database.reading(engine) as connection:
        found = connection.execute(select(row.settled, row.rejected, row.removed).where(row.id == 1)).one()
        settled, rejected, rows = found
        for table in (usage, tables.provisions):
            rows += connection.scalar(select(func.count()).select_from(table))
        doubles = connection.scalar(select(func.count()).select_from(repeated))
    return Count(int(settled), int(rejected), int(rows), int(doubles or 0))
