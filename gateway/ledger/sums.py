"""Sums of attempts under one key, as SQL: whole days from `days`, hours from `hours`, what a
span cuts off at its ends from `usage`.

SQL adds up per key, price book, runtime and tags; names are looked up and prices multiplied here, in whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Select,
    Table,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Subquery

from . import months, provisions, tables
from .hours import DAY_HOURS, HOUR_MS
from .lines import Sum, day_text, hour_text, nothing
from .prices import Money, PriceBook
from .tables import SUM_KEYS, SUMS

if TYPE_CHECKING:
    from .questions import Question

NEWEST_FIRST = ("hour", "day", "month")
NONE = "(none)"  # calls without the tag, or by no route
ROUTE = "route "  # what the trigger of a call by a route begins with
_KEYS = {  # what is asked by → the columns that tell its name
    "call": (),
    "total": (),
    "function": ("function",),
    "tenant": ("function",),
    "revision": ("function", "revision"),
    "route": ("trigger",),
    "trigger": ("function", "trigger"),  # a trigger's name is its function's own
    "tag": (),
    "hour": ("hour",),
    "day": ("day",),
    "month": ("day", "late"),
}


def by_key(
    connection: Connection, question: Question, books: Mapping[int, PriceBook], *, late_only: bool = False
) -> list[Sum]:
    """One sum for every name that occurs, in no order; "" for a total. `late_only`: of what came late (by month)."""
    part = matching(question, books)
    keys = {name: key(part, name) for name in (*_KEYS[question.by], "book", "variant")}
    if question.tenant is None:
        keys["function"] = part.c.function
    query, names = added_up(part, keys), Names(connection)
    groups: dict[str, Sum] = {}
    for row in connection.execute(query.where(part.c.late != 0) if late_only else query):
        name = names.of(row, question)
        tenant = question.tenant if question.tenant is not None else names.functions[row.function][0]
        one = priced(row, books[row.book], tenant, names.variants[row.variant][0])
        groups[name] = (groups.get(name) or nothing(heading(question), name)).plus(one)
    return list(groups.values())


def by_rate(connection: Connection, question: Question, books: Mapping[int, PriceBook]) -> dict[tuple[int, str], Sum]:
    """(version of the book, runtime) → sum, for one tenant."""
    assert question.tenant is not None
    part, names = matching(question, books), Names(connection)
    groups: dict[tuple[int, str], Sum] = {}
    for row in connection.execute(added_up(part, {name: part.c[name] for name in ("book", "variant")})):
        runtime = names.variants[row.variant][0]
        one = priced(row, books[row.book], question.tenant, runtime)
        groups[row.book, runtime] = groups.get((row.book, runtime), nothing()).plus(one)
    return groups


def heading(question: Question) -> str:
    return "" if question.by in ("call", "total") else question.by.value


def rank(question: Question, name: str) -> tuple[str, int]:
    """Where a name stands among those of its kind."""
    if question.by == "revision":
        function, _, number = name.rpartition(":")
        return function, int(number)
    return name, 0


class Names:
    """What the numbers in a ledger stand for."""

    def __init__(self, connection: Connection) -> None:
        functions = connection.execute(select(tables.functions))
        variants = connection.execute(select(tables.variants))
        self.functions: dict[int, tuple[str, str]] = {row.id: (row.tenant, row.name) for row in functions}
        self.variants: dict[int, tuple[str, str]] = {row.id: (row.runtime, row.tags) for row in variants}
        self.labels: dict[int, str] = {row.id: row.text for row in connection.execute(select(tables.labels))}

    def of(self, row: Row[Any], question: Question) -> str:
        """The name of the group that a row belongs to."""
        match question.by.value:
            case "function":
                return self.functions[row.function][1]
            case "tenant":
                return self.functions[row.function][0]
            case "revision":
                return f"{self.functions[row.function][1]}:{row.revision}"
            case "trigger":
                return f"{self.functions[row.function][1]} {self.labels[row.trigger]}"
            case "route":
                label = self.labels[row.trigger]
                return label.removeprefix(ROUTE) if label.startswith(ROUTE) else NONE
            case "tag":
                return tag_name(self.variants[row.variant][1], question.tag)
            case "hour":
                return hour_text(int(row.hour))
            case "day":
                return day_text(int(row.day))
            case "month":
                return months.text(row.late or months.of(int(row.day) * DAY_HOURS * HOUR_MS))
        return ""


def tag_name(tags: str, key: str | None) -> str:
    """The value of one tag in "stage=prod,team=x", or all of them."""
    if key is None:
        return tags or NONE
    return dict(pair.split("=", 1) for pair in tags.split(",") if "=" in pair).get(key, NONE)


def added_up(part: Subquery, keys: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    """One row for each distinct `keys`, with SUMS, mb_ms (provisioned and idle ones, too) and max_memory_bytes."""
    return select(
        *(column.label(name) for name, column in keys.items()),
        *(func.sum(part.c[name]).label(name) for name in SUMS),
        func.sum(part.c.memory_mb * part.c.billed_ms).label("mb_ms"),
        func.sum(part.c.memory_mb * part.c.provisioned_ms).label("provisioned_mb_ms"),
        func.sum(part.c.memory_mb * part.c.idle_ms).label("idle_mb_ms"),
        func.max(part.c.max_memory_bytes).label("max_memory_bytes"),
    ).group_by(*keys.values())


def priced(row: Row[Any], book: PriceBook, tenant: str, runtime: str) -> Sum:
    """One row of `added_up`, all of it priced by one book for one tenant and runtime."""
    charged, billed_ms, mb_ms = int(row.charged), int(row.billed_ms), int(row.mb_ms)
    rates, provisioned_mb_ms = book.rates_for(tenant, runtime), int(row.provisioned_mb_ms)
    provisioned_price = rates.provisioned_price(provisioned_mb_ms)
    return Sum(
        column="",
        name="",
        calls=int(row.calls),
        charged=charged,
        failed=int(row.failed),
        cold=int(row.cold),
        duration_us=int(row.duration_us),
        init_us=int(row.init_us),
        rounding_us=billed_ms * 1000 - int(row.charged_us),
        billed_ms=billed_ms,
        mb_ms=mb_ms,
        max_memory_bytes=int(row.max_memory_bytes),
        price=Money(rates.price(mb_ms, charged) + provisioned_price),
        books=(row.book,),
        provisioned_mb_ms=provisioned_mb_ms,
        idle_mb_ms=int(row.idle_mb_ms),
        provisioned_price=provisioned_price,
    )


def matching(question: Question, books: Mapping[int, PriceBook]) -> Subquery:
    """Everything that matches, as rows of the form of `hours`, each part of a span from the largest sums that fit it.

    Whole days, then whole hours, then single attempts. By the hour, days are no help.
    """
    parts: list[Select[Any]]
    if question.month is not None:
        table = tables.hours if question.by == "hour" else tables.days
        unit_ms = HOUR_MS if question.by == "hour" else HOUR_MS * DAY_HOURS
        query = _summed(table, question)
        moment = table.c.hour if question.by == "hour" else table.c.day
        parts = [query.where(on_the_bill_of(question.month, moment, table.c.late, unit_ms))]
    else:
        parts = []
        for unit_ms, begins, ends in spans(question.since_ms, question.until_ms, days=question.by != "hour"):
            if unit_ms == 1:
                parts.append(_single(question, books, begins, ends))
                parts.append(_minutes(question, begins, ends))
                continue
            table = tables.hours if unit_ms == HOUR_MS else tables.days
            moment = table.c.hour if unit_ms == HOUR_MS else table.c.day
            query = _summed(table, question)
            query = query if begins is None else query.where(moment >= begins // unit_ms)
            parts.append(query if ends is None else query.where(moment < ends // unit_ms))
    return (union_all(*parts) if len(parts) > 1 else parts[0]).subquery("part")


def spans(since_ms: int | None, until_ms: int | None, *, days: bool) -> list[tuple[int, int | None, int | None]]:
    """A span as (unit in ms, from, to) without gap or overlap: the largest units that fit, smaller ones at the ends."""

    def cut(units: tuple[int, ...], begins: int | None, ends: int | None) -> list[tuple[int, int | None, int | None]]:
        if begins is not None and begins == ends:
            return []
        unit, *smaller = units
        first = None if begins is None else -(-begins // unit) * unit
        beyond = None if ends is None else ends // unit * unit
        if first is not None and beyond is not None and beyond <= first:
            return cut(tuple(smaller), begins, ends) if smaller else [(unit, begins, ends)]
        before = cut(tuple(smaller), begins, first) if smaller and begins is not None else []
        after = cut(tuple(smaller), beyond, ends) if smaller and ends is not None else []
        return [*before, (unit, first, beyond), *after]

    units = (DAY_HOURS * HOUR_MS, HOUR_MS, 1) if days else (HOUR_MS, 1)
    return cut(units, since_ms, until_ms) or [(1, since_ms, until_ms)]


def functions_of(question: Question) -> Select[tuple[int]] | None:
    """The ids of the functions that a question is about; None: all."""
    if question.tenant is None and question.function is None:
        return None
    ids = select(tables.functions.c.id)
    if question.tenant is not None:
        ids = ids.where(tables.functions.c.tenant == question.tenant)
    return ids if question.function is None else ids.where(tables.functions.c.name == question.function)


def _summed(table: Table, question: Question) -> Select[Any]:
    hour = table.c.hour if table is tables.hours else (table.c.day * DAY_HOURS).label("hour")
    return _of(select(hour, *(table.c[name] for name in (*SUM_KEYS, *SUMS, "max_memory_bytes"))), question, table.c)


def on_the_bill_of(
    month: int, moment: ColumnElement[int], late: ColumnElement[int], unit_ms: int
) -> ColumnElement[bool]:
    """What is billed in a month: its own (began in it, not billed later), and what came late from earlier ones."""
    begins_ms, ends_ms = months.bounds_ms(month)
    return or_(and_(late == 0, moment >= begins_ms // unit_ms, moment < ends_ms // unit_ms), late == month)


def _minutes(question: Question, since: int | None, until: int | None) -> Select[Any]:
    """Provisioned minutes that began in a span, each in the form of a row of `hours`."""
    minutes = tables.provisions.c
    trigger = select(tables.labels.c.id).where(tables.labels.c.text == provisions.TRIGGER).scalar_subquery()
    values: dict[str, ColumnElement[Any]] = {
        "hour": minutes.started_ms // literal_column(str(HOUR_MS), BigInteger),
        "trigger": trigger,
    }
    nothing = literal_column("0", BigInteger)
    names = ("hour", *SUM_KEYS, *SUMS, "max_memory_bytes")
    found = [values[name] if name in values else minutes.get(name, nothing) for name in names]
    columns = [column.label(name) for column, name in zip(found, names, strict=True)]
    return _within(_of(select(*columns), question, minutes), minutes.started_ms, since, until)


def _single(question: Question, books: Mapping[int, PriceBook], since: int | None, until: int | None) -> Select[Any]:
    """Attempts of a span, each in the form of a row of `hours`."""
    usage = tables.usage.c
    charged = usage.billed_ms > 0
    with_init = [book.version for book in books.values() if book.bill_init]
    used = usage.duration_us + case((usage.book.in_(with_init), usage.init_us), else_=0)
    values: dict[str, ColumnElement[Any]] = {
        "hour": usage.started_ms // literal_column(str(HOUR_MS), BigInteger),
        "calls": literal_column("1", BigInteger),
        "charged": case((charged, 1), else_=0),
        "failed": case((charged & (usage.outcome != 0), 1), else_=0),
        "charged_us": case((charged, used), else_=0),
        **dict.fromkeys(("provisioned_ms", "idle_ms"), literal_column("0", BigInteger)),
    }
    names = ("hour", *SUM_KEYS, *SUMS, "max_memory_bytes")
    labelled = [(values[name] if name in values else usage[name]).label(name) for name in names]
    return _within(_of(select(*labelled), question, usage), usage.started_ms, since, until)


def _within(query: Select[Any], moment: ColumnElement[int], since: int | None, until: int | None) -> Select[Any]:
    query = query if since is None else query.where(moment >= since)
    return query if until is None else query.where(moment < until)


def _of(query: Select[Any], question: Question, columns: Any) -> Select[Any]:
    """Only the tenant's, and the function's."""
    ids = functions_of(question)
    return query if ids is None else query.where(columns.function.in_(ids))


def key(part: Subquery, name: str) -> ColumnElement[Any]:
    """What tells rows of `part` apart by this: a column, or the day."""
    return part.c.hour // literal_column(str(DAY_HOURS), BigInteger) if name == "day" else part.c[name]
