"""Revision 5: from when on single calls are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    op.add_column("settlement", sa.Column("kept_since_ms", sa.BigInteger, nullable=False, server_default="0"))
