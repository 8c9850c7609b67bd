"""Revision 1: what the first release wrote. Attempts with what they were priced by; settlement; what was rejected."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "price_books",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("effective_from_ms", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("currency", "per_gb_second", "per_call")),
        sa.Column("step_ms", sa.Integer, nullable=False),
    )
    op.create_table(
        "functions",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ("tenant", "name")),
        sa.UniqueConstraint("tenant", "name"),
    )
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.String, nullable=False, unique=True),
    )
    op.create_table(
        "usage",
        sa.Column("invocation", sa.LargeBinary(16), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(n, sa.Integer, nullable=False) for n in ("function", "revision", "trigger", "invoker")),
        *(sa.Column(n, sa.SmallInteger, nullable=False) for n in ("outcome", "cold")),
        sa.Column("book", sa.Integer, nullable=False),
        *(sa.Column(n, sa.BigInteger, nullable=False) for n in ("started_ms", "duration_us", "billed_ms", "init_us")),
        *(sa.Column(n, sa.BigInteger, nullable=False) for n in ("queue_us", "memory_mb", "max_memory_bytes")),
        *(sa.Column(n, sa.BigInteger, nullable=False) for n in ("cpu_us", "bytes_in", "bytes_out")),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_by_time", "usage", ["started_ms", "invocation", "attempt"])
    op.create_index("usage_by_function", "usage", ["function", "started_ms"])
    op.create_table(
        "rejected",
        sa.Column("key", sa.LargeBinary(32), primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ("entry", "reason")),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "settlement",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.String, nullable=False),
        *(sa.Column(n, sa.BigInteger, nullable=False) for n in ("settled", "repeated", "rejected", "at_ms")),
    )
    op.execute("INSERT INTO settlement VALUES (1, '', 0, 0, 0, 0)")
