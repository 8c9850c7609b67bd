"""Sums of attempts, and of what was kept ready, by the hour and by the day: what every breakdown but single calls is
added up from.

They are written in the transaction that writes the attempts, for exactly the rows that are new in it, so both always
tell the same. Whatever is asked for stands in the key: function, revision, runtime and tags, trigger, memory, book.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, case

from .database import insert_into
from .prices import PriceBook
from .tables import SUM_KEYS, SUMS, days, hours, usage

HOUR_MS = 3_600_000
DAY_HOURS = 24
_AT = {column.name: n for n, column in enumerate(usage.columns)}
_DIRECT = ("cold", "duration_us", "billed_ms", "init_us", "queue_us", "cpu_us", "bytes_in", "bytes_out")
_KEYS = [_AT[name] for name in SUM_KEYS]
_VALUES = (*SUMS, "max_memory_bytes")


def add(connection: Connection, rows: Sequence[tuple[Any, ...]], books: Mapping[int, PriceBook]) -> None:
    """Adds new rows of `usage`, each in the order of its columns, to the sums of their hours and days."""
    by_hour: dict[tuple[int, ...], dict[str, int]] = {}
    for row in rows:
        key = (row[_AT["started_ms"]] // HOUR_MS, *[row[n] for n in _KEYS])
        into = by_hour.get(key)
        if into is None:
            into = by_hour[key] = dict.fromkeys(_VALUES, 0)
        into["calls"] += 1
        if row[_AT["billed_ms"]]:
            into["charged"] += 1
            into["failed"] += row[_AT["outcome"]] != 0
            init_us = row[_AT["init_us"]] if books[row[_AT["book"]]].bill_init else 0
            into["charged_us"] += row[_AT["duration_us"]] + init_us
        for name in _DIRECT:
            into[name] += row[_AT[name]]
        into["max_memory_bytes"] = max(into["max_memory_bytes"], row[_AT["max_memory_bytes"]])
    _add(connection, by_hour)


def add_minutes(connection: Connection, rows: Iterable[Mapping[str, Any]], trigger: int) -> None:
    """Adds new rows of `provisions` to the same sums, under the label that stands for their trigger."""
    by_hour: dict[tuple[int, ...], dict[str, int]] = {}
    for row in rows:
        key = (row["started_ms"] // HOUR_MS, *(trigger if name == "trigger" else row[name] for name in SUM_KEYS))
        into = by_hour.setdefault(key, dict.fromkeys(_VALUES, 0))
        into["provisioned_ms"] += row["provisioned_ms"]
        into["idle_ms"] += row["idle_ms"]
    _add(connection, by_hour)


def _add(connection: Connection, by_hour: Mapping[tuple[int, ...], dict[str, int]]) -> None:
    by_day: dict[tuple[int, ...], dict[str, int]] = {}
    for (hour, *others), values in by_hour.items():
        into = by_day.setdefault((hour // DAY_HOURS, *others), dict.fromkeys(_VALUES, 0))
        for name in SUMS:
            into[name] += values[name]
        into["max_memory_bytes"] = max(into["max_memory_bytes"], values["max_memory_bytes"])
    for table, sums in ((hours, by_hour), (days, by_day)):
        if sums:
            keys = table.primary_key.columns.keys()
            found = [dict(zip(keys, key, strict=True)) | values for key, values in sums.items()]
            connection.execute(_upsert(connection, table), found)


def _upsert(connection: Connection, table: Table) -> Any:
    statement = insert_into(connection.engine, table)
    new, old = statement.excluded, table.c
    changed = {name: old[name] + new[name] for name in SUMS}
    larger = case((new.max_memory_bytes > old.max_memory_bytes, new.max_memory_bytes), else_=old.max_memory_bytes)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key), set_=changed | {"max_memory_bytes": larger}
    )
