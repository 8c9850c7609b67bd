"""Revision 6: what was kept ready, in minutes and in the sums; how many old rows were removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"


def upgrade() -> None:
    op.create_table(
        "provisions",
        sa.Column("id", sa.LargeBinary(16), primary_key=True),
        *(sa.Column(n, sa.Integer, nullable=False) for n in ("function", "revision", "variant", "invoker", "book")),
        *(sa.Column(n, sa.BigInteger, nullable=False) for n in ("memory_mb", "started_ms")),
        *(sa.Column(n, sa.BigInteger, nullable=False) for n in ("provisioned_ms", "idle_ms")),
        sa.Column("late", sa.Integer, nullable=False, server_default="0"),
        sqlite_with_rowid=False,
    )
    op.create_index("provisions_by_time", "provisions", ["started_ms"])
    for table in ("hours", "days"):
        for name in ("provisioned_ms", "idle_ms"):
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("settlement", sa.Column("removed", sa.BigInteger, nullable=False, server_default="0"))
    op.execute('UPDATE settlement SET removed = settled - (SELECT count(*) FROM "usage")')
