"""Provisioned minutes: what invokers report of instances kept ready, checked, and written beside the calls.

A record has an id of its own, so one that comes again is turned away, as calls are. It is priced by the book in force
when its minute began, and stands in the same sums as the calls of its revision, under a trigger that no call has.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, get_type_hints

from sqlalchemy import Connection

from jiffy.contract import wire
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Provision

from . import tables
from .database import put

TRIGGER = "min_instances"
_TYPES = tuple(get_type_hints(Provision).values())
_INT, _LONG, _MOMENT = 2**31 - 1, 2**42, 2**47  # as calls' numbers: settle.py
_MEMORY_MB = 2**20
_NAMES_MAX_CHARS = 4096


def decode(data: bytes) -> Provision:
    """The record in an entry, checked: what passes here can be stored and summed. Raises PlatformError."""
    record = wire.unpack(Provision, data)
    if tuple(map(type, record)) != _TYPES:
        raise PlatformError(f"a field is of a wrong type: {record!r:.300}")
    try:
        uuid.UUID(record.id)
    except ValueError:
        raise PlatformError(f"id {record.id!r:.60} is no UUID") from None
    names = f"{record.tenant}{record.function}{record.invoker}{record.runtime}{record.tags}"
    if len(names) > _NAMES_MAX_CHARS or "\0" in names:
        raise PlatformError(f"a name is too long or holds a NUL: {names!r:.60}")
    if not (
        0 <= record.revision <= _INT
        and 0 <= record.memory_mb <= _MEMORY_MB
        and 0 <= record.started_ms <= _MOMENT
        and 0 <= record.idle_ms <= record.provisioned_ms <= _LONG
    ):
        raise PlatformError(f"a number is negative or out of range: {record!r:.300}")
    return record


def row(record: Provision, function: int, variant: int, invoker: int, book: int, late: int) -> dict[str, Any]:
    """A row of `provisions`; ids are the ledger's."""
    return {
        "id": uuid.UUID(record.id).bytes,
        "function": function,
        "revision": record.revision,
        "variant": variant,
        "invoker": invoker,
        "book": book,
        "memory_mb": record.memory_mb,
        "started_ms": record.started_ms,
        "provisioned_ms": record.provisioned_ms,
        "idle_ms": record.idle_ms,
        "late": late,
    }


def write(connection: Connection, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Inserts the rows; returns those that were not there yet."""
    return [one for one in rows if put(connection, tables.provisions, [one])]
