"""Revision 3: statements of closed months."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.create_table(
        "statements",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("month", sa.Integer, nullable=False),
        sa.Column("closed_ms", sa.BigInteger, nullable=False),
        sa.Column("document", sa.String, nullable=False),
        sa.UniqueConstraint("tenant", "month"),
    )
