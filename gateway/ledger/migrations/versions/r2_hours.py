"""Revision 2: price books as whole documents, runtimes and tags of attempts, sums by the hour.

The hours of what is there already are added up here, once.
"""

from __future__ import annotations

import datetime as dt
import json

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

KEYS = ("hour", "function", "revision", "variant", "trigger", "memory_mb", "book", "late")
SUMS = (
    *("calls", "charged", "failed", "cold", "duration_us", "charged_us", "billed_ms", "init_us", "queue_us"),
    *("cpu_us", "bytes_in", "bytes_out", "max_memory_bytes"),
)
FILL = """
INSERT INTO hours
SELECT started_ms / 3600000, function, revision, 0, "trigger", memory_mb, book, 0,
       count(*), sum(CASE WHEN billed_ms > 0 THEN 1 ELSE 0 END),
       sum(CASE WHEN billed_ms > 0 AND outcome <> 0 THEN 1 ELSE 0 END), sum(cold), sum(duration_us),
       sum(CASE WHEN billed_ms > 0 THEN duration_us ELSE 0 END), sum(billed_ms), sum(init_us), sum(queue_us),
       sum(cpu_us), sum(bytes_in), sum(bytes_out), max(max_memory_bytes)
FROM "usage" GROUP BY started_ms / 3600000, function, revision, "trigger", memory_mb, book
"""


def upgrade() -> None:
    connection = op.get_bind()
    books = list(connection.execute(sa.text("SELECT * FROM price_books")))
    op.drop_table("price_books")
    table = op.create_table(
        "price_books",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("effective_from_ms", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("currency", "document")),
    )
    op.bulk_insert(table, [_book(row) for row in books])
    variants = op.create_table(
        "variants",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ("runtime", "tags")),
        sa.UniqueConstraint("runtime", "tags"),
    )
    op.bulk_insert(variants, [{"id": 0, "runtime": "", "tags": ""}])
    for name in ("variant", "late"):
        op.add_column("usage", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "hours",
        *(sa.Column(name, sa.Integer, primary_key=True, autoincrement=False) for name in KEYS),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in SUMS),
        sqlite_with_rowid=False,
    )
    op.execute(FILL)


def _book(row: sa.Row[tuple[object, ...]]) -> dict[str, object]:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=row.effective_from_ms)
    document = {
        "version": row.version,
        "effective_from": f"{moment.isoformat(timespec='milliseconds')[:-6]}Z",
        "step_ms": row.step_ms,
        "per_gb_second": row.per_gb_second,
        "per_call": row.per_call,
    }
    kept = {"version": row.version, "effective_from_ms": row.effective_from_ms, "currency": row.currency}
    return kept | {"document": json.dumps(document)}
