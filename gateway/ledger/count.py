"""How many attempts the ledger has, for `jiffy audit`: what it says it settled, and what is really there."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Engine, func, select

from . import database, tables


class Count(NamedTuple):
    settled: int  # usage rows ever written
    rejected: int  # records put aside because they could not be read
    rows: int  # usage rows that are there
    doubles: int  # (invocation, attempt) that are there more than once


def count(engine: Engine) -> Count:
    """All of one moment. Raises Unavailable."""
    row, usage = tables.settlement.c, tables.usage
    key = (usage.c.invocation, usage.c.attempt)
    repeated = select(key[0]).group_by(*key).having(func.count() > 1).subquery()
    with database.reading(engine) as connection:
        settled, rejected = connection.execute(select(row.settled, row.rejected).where(row.id == 1)).one()
        rows = connection.scalar(select(func.count()).select_from(usage))
        doubles = connection.scalar(select(func.count()).select_from(repeated))
    return Count(int(settled), int(rejected), int(rows or 0), int(doubles or 0))
