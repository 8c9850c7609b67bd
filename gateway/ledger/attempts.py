"""Single attempts, as SQL: the newest first, page by page; the dearest; all of one invocation."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, alias, and_, select, tuple_

from . import months, sums, tables
from .lines import Attempt
from .prices import PriceBook

if TYPE_CHECKING:
    from .questions import Question

_USAGE = tables.usage.c
_TRIGGERS = alias(tables.labels, "triggers")
_OUTCOMES = {number: outcome.value for outcome, number in tables.OUTCOMES.items()}


def newest(connection: Connection, question: Question, books: Mapping[int, PriceBook]) -> list[Attempt]:
    """Newest first; one more than the page holds, where there are more."""
    order = (_USAGE.started_ms, _USAGE.invocation, _USAGE.attempt)
    query = matching(_select(), question, connection)
    if question.after is not None:
        started, invocation_hex, attempt = question.after.split(".")
        query = query.where(tuple_(*order) < tuple_(int(started), bytes.fromhex(invocation_hex), int(attempt)))
    query = query.order_by(*(column.desc() for column in order)).limit(question.limit + 1)
    return [_attempt(row, books) for row in connection.execute(query)]


def dearest(connection: Connection, question: Question, books: Mapping[int, PriceBook]) -> list[Attempt]:
    """The most expensive first, at most `limit`.

    Among attempts that were priced alike, the price follows memory × billed time, so SQL finds those of each kind.
    """
    found: list[Attempt] = []
    size = _USAGE.memory_mb * _USAGE.billed_ms
    for kind in connection.execute(select(tables.days.c.book, tables.days.c.variant).distinct()).all():
        keys = matching(select(_USAGE.invocation, _USAGE.attempt), question, connection)
        keys = keys.where(_USAGE.book == kind.book, _USAGE.variant == kind.variant, _USAGE.billed_ms > 0)
        keys = keys.order_by(size.desc(), _USAGE.started_ms.desc()).limit(question.limit)
        one = keys.subquery("dearest")  # only now are names looked up, for these few
        query = _select().join(one, and_(_USAGE.invocation == one.c.invocation, _USAGE.attempt == one.c.attempt))
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
        # Outer, though all are there: SQLite then begins with `usage`, in the order of its index.
        .outerjoin(tables.functions, _USAGE.function == tables.functions.c.id)
        .outerjoin(_TRIGGERS, _USAGE.trigger == _TRIGGERS.c.id)
        .outerjoin(tables.variants, _USAGE.variant == tables.variants.c.id)
    )


def matching(query: Select[Any], question: Question, connection: Connection) -> Select[Any]:
    """Only what the question is about. One function is found by its index, all of a tenant's in the order of time."""
    ids = sums.functions_of(question)
    if ids is not None:
        known = connection.scalars(ids).all()
        alone = question.function is not None and len(known) == 1
        query = query.where(_USAGE.function == known[0] if alone else (_USAGE.function + 0).in_(known))
    if question.month is not None:
        query = query.where(sums.on_the_bill_of(question.month, _USAGE.started_ms, _USAGE.late, 1))
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
