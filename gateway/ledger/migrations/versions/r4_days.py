"""Revision 4: sums by the day, added up from those by the hour."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"

KEYS = ("function", "revision", "variant", "trigger", "memory_mb", "book", "late")
SUMS = (
    *("calls", "charged", "failed", "cold", "duration_us", "charged_us", "billed_ms", "init_us", "queue_us"),
    *("cpu_us", "bytes_in", "bytes_out"),
)


def upgrade() -> None:
    days = op.create_table(
        "days",
        *(sa.Column(name, sa.Integer, primary_key=True, autoincrement=False) for name in ("day", *KEYS)),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in (*SUMS, "max_memory_bytes")),
        sqlite_with_rowid=False,
    )
    hours = sa.table(
        "hours", *(sa.column(name, sa.BigInteger) for name in ("hour", *KEYS, *SUMS, "max_memory_bytes"))
    ).c
    keys = [hours.hour // 24, *(hours[name] for name in KEYS)]
    found = sa.select(*keys, *(sa.func.sum(hours[name]) for name in SUMS), sa.func.max(hours.max_memory_bytes))
    op.execute(days.insert().from_select(days.columns.keys(), found.group_by(*keys)))
