"""Single attempts, as SQL: the newest first, page by page; the dearest; all of one invocation."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, alias, or_, select, tuple_

from . import months, tables
from .lines import Attempt
from .prices import PriceBook
from .sums import on_the_bill_of

if TYPE_CHECKING:
    from .questions import Question

_USAGE = tables.usage.c
_TRIGGERS = alias(tables.labels, "triggers")
_OUTCOMES = {number: outcome.value for outcome, number in tables.OUTCOMES.items()}


def newest(connection: Connection, question: Question, books: Mapping[int, PriceBook]) -> list[Attempt]:
    """Newest first; one more than the page holds, where there are more."""
    order = (_USAGE.started_ms, _USAGE.invocation, _USAGE.attempt)
    query = matching(_select(), question)
    if question.after is not None:
        started, invocation_hex, attempt = question.after.split(".")
        query = query.where(tuple_(*order) < tuple_(int(started), bytes.fromhex(invocation_hex), int(attempt)))
    query = query.order_by(*(column.desc() for column in order)).limit(question.limit + 1)
    return [_attempt(row, books) for row in connection.execute(query)]


def dearest(connection: Connection, question: Question, books: Mapping[int, PriceBook]) -> list[Attempt]:
    """The most expensive first, at most `limit`.

    Among attempts that were priced alike, the price follows memory × billed time, so SQL finds those of each kind.
    """
    kinds = matching(select(_USAGE.book, _USAGE.variant).join(tables.functions, _OF_FUNCTION), question).distinct()
    found: list[Attempt] = []
    for book, variant in connection.execute(kinds).all():
        query = matching(_select(), question).where(
            _USAGE.book == book, _USAGE.variant == variant, _USAGE.billed_ms > 0
        )
        size = _USAGE.memory_mb * _USAGE.billed_ms
        query = query.order_by(size.desc(), _USAGE.started_ms.desc()).limit(question.limit)
        found += [_attempt(row, books) for row in connection.execute(query)]
    return heapq.nlargest(question.limit, found, key=lambda one: (one.price, one.started_ms, one.invocation))


def of_invocation(
    connection: Connection, tenant: str, invocation_id: str, books: Mapping[int, PriceBook]
) -> list[Attempt]:
    """In order; none when the id is unknown or no UUID."""
    try:
        key = uuid.UUID(invocation_id).bytes
    except ValueError:
        return []
    query = _select().where(tables.functions.c.tenant == tenant, _USAGE.invocation == key)
    return [_attempt(row, books) for row in connection.execute(query.order_by(_USAGE.attempt))]


_OF_FUNCTION = _USAGE.function == tables.functions.c.id


def _select() -> Select[Any]:
    return (
        select(
            tables.usage,
            tables.functions.c.tenant,
            tables.functions.c.name.label("function_name"),
            _TRIGGERS.c.text.label("trigger_text"),
            tables.variants.c.runtime,
            tables.variants.c.tags,
        )
        .join(tables.functions, _OF_FUNCTION)
        .join(_TRIGGERS, _USAGE.trigger == _TRIGGERS.c.id)
        .join(tables.variants, _USAGE.variant == tables.variants.c.id)
    )


def matching(query: Select[Any], question: Question) -> Select[Any]:
    if question.tenant is not None:
        query = query.where(tables.functions.c.tenant == question.tenant)
    if question.function is not None:
        query = query.where(tables.functions.c.name == question.function)
    if question.month is not None:
        query = query.where(or_(*on_the_bill_of(question.month, _USAGE.started_ms, _USAGE.late, 1)))
    if question.since_ms is not None:
        query = query.where(_USAGE.started_ms >= question.since_ms)
    if question.until_ms is not None:
        query = query.where(_USAGE.started_ms < question.until_ms)
    return query


def _attempt(row: Row[Any], books: Mapping[int, PriceBook]) -> Attempt:
    mb_ms = row.memory_mb * row.billed_ms
    return Attempt(
        invocation=str(uuid.UUID(bytes=bytes(row.invocation))),
        attempt=row.attempt,
        started_ms=row.started_ms,
        function=row.function_name,
        revision=row.revision,
        trigger=row.trigger_text,
        outcome=_OUTCOMES[row.outcome],
        cold=bool(row.cold),
        duration_us=row.duration_us,
        billed_ms=row.billed_ms,
        init_us=row.init_us,
        queue_us=row.queue_us,
        memory_mb=row.memory_mb,
        max_memory_bytes=row.max_memory_bytes,
        cpu_us=row.cpu_us,
        bytes_in=row.bytes_in,
        bytes_out=row.bytes_out,
        price=books[row.book].price(mb_ms, int(row.billed_ms > 0), row.tenant, row.runtime),
        book=row.book,
        runtime=row.runtime,
        tags=row.tags,
        late=months.text(row.late) if row.late else "",
    )
