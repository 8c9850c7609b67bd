"""Rows of a bill into a Parquet file, group by group, so that their number does not matter. An extra: jiffy[parquet].

Exact amounts become decimals, times timestamps in UTC; the rest is what the JSON says.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from .contract.errors import Unavailable

GROUP_ROWS = 50_000
_INTEGERS = ("attempt", "revision", "billed_ms", "memory_mb", "max_memory_bytes", "bytes_in", "bytes_out", "price_book")
_DECIMALS = {"duration_ms": 3, "init_ms": 3, "queue_ms": 3, "cpu_ms": 3, "gb_seconds": 13, "price": 30}
COLUMNS = (
    *("invocation", "attempt", "started", "function", "revision", "trigger", "outcome", "cold", "duration_ms"),
    *("billed_ms", "init_ms", "queue_ms", "memory_mb", "max_memory_bytes", "cpu_ms", "bytes_in", "bytes_out"),
    *("gb_seconds", "price", "price_book", "runtime", "tags", "late"),
)


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows of single calls; returns how many. Raises Unavailable without pyarrow, OSError."""
    try:
        import pyarrow  # an extra, and 0.3 s that only this needs
        import pyarrow.parquet
    except ImportError as exc:
        raise Unavailable("Parquet needs pyarrow: pip install 'jiffy[parquet]'") from exc

    def kind(name: str) -> Any:
        if name in _INTEGERS:
            return pyarrow.int64()
        if name in _DECIMALS:
            return pyarrow.decimal128(38, _DECIMALS[name])
        return {"started": pyarrow.timestamp("ms", tz="UTC"), "cold": pyarrow.bool_()}.get(name, pyarrow.string())

    schema = pyarrow.schema([(name, kind(name)) for name in COLUMNS])
    count, group = 0, []
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for row in rows:
            group.append({name: _value(name, row[name]) for name in COLUMNS})
            count += 1
            if len(group) == GROUP_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                group.clear()
        writer.write_table(pyarrow.Table.from_pylist(group, schema))
    return count


def _value(name: str, value: Any) -> Any:
    if name in _DECIMALS:
        return Decimal(value)
    return dt.datetime.fromisoformat(value) if name == "started" else value
