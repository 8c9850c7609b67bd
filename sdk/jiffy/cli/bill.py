"""`jiffy bill`: what calls cost, as a table for people, or as JSON or CSV for machines.

The sums are the ledger's (GET /v1/usage), never this program's: the table only lays them out. When it shows fewer
rows than there are, one line stands for the others, so that the total is always the sum of what stands above it.
"""

from __future__ import annotations

import datetime as dt
import io
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import click
from rich import box
from rich.console import Console
from rich.table import Table

from jiffy.client import Client
from jiffy.contract.errors import InvalidRequest

from .screen import json_option, show_json

TABLE_CALLS = 50  # what a person reads; --limit shows more
PAGE_ROWS = 1000
SHORT_ID = 6  # characters of an id's random end: more where two of those shown agree
EXACT_DIGITS = 100  # more than any amount has, so that no sum is rounded
BY = ("call", "function", "revision", "route", "trigger", "tenant", "tag", "hour", "day", "month", "total")
UNWRAPPED = 10_000  # width of a table that goes into a file or a pipe

Line = dict[str, Any]  # one row of GET /v1/usage
Tier = tuple[int, int | None, int | None]  # spaces between columns; decimals of GB-s and price, None for all
TIERS: tuple[Tier, ...] = ((2, None, None), (1, None, None), (1, 8, 15), (1, 6, 12), (1, 4, 10))


@click.command(short_help="Show what calls cost.")
@click.option("--function", metavar="NAME", help="Only the calls of one function.")
@click.option("--by", metavar="WHAT", default="call", help=f"One line for each: {', '.join(BY)}, tag:NAME.")
@click.option("--top", metavar="N", type=click.IntRange(1, 10_000), help="The N most expensive calls.")
@click.option("--since", metavar="WHEN", help="From then on: 2026-11-01, 2026-11-01T08:30, 30m, 24h, 7d ago.")
@click.option("--until", metavar="WHEN", help="Before then, written the same way.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help=f"At most N lines (table of calls: {TABLE_CALLS}).")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="How to print.")
@click.option("--wide", is_flag=True, help="Whole ids and triggers in the table.")
@json_option
def bill(
    function: str | None,
    by: str,
    top: int | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    form: str,
    wide: bool,
    as_json: bool,
) -> None:
    """Show what calls cost: exact and billed time, GB-seconds, price, and the total.

    Newest calls come first. Times and days are UTC. Prices are list prices; what a month's free tier and volume tiers
    take off stands in its statement.

    \b
    Examples:
      jiffy bill
      jiffy bill --function hello --since 24h
      jiffy bill --by day --since 30d
      jiffy bill --by tag:team --since 2026-11-01
      jiffy bill --top 10
      jiffy bill --format csv > bill.csv
    """
    params = {"function": function, "by": by, "since": since, "until": until}
    if top is not None:
        params, limit = params | {"order": "price"}, top
    form = "json" if as_json else form
    if form == "table" and by == "call":
        limit = limit or TABLE_CALLS
    try:
        with Client() as client:
            if form == "csv":
                for line in client.usage_csv(**params, limit=limit):
                    click.echo(line.rstrip("\r"))
                return
            document = _fetch(client, params, limit)
    except InvalidRequest as exc:
        raise click.UsageError(exc.message) from exc
    if form == "json":
        show_json(document)
    else:
        click.echo(_page(document, wide))


def _fetch(client: Client, params: dict[str, str | None], limit: int | None) -> dict[str, Any]:
    """The whole answer, or its first `limit` rows, as one document."""
    rows: list[Line] = []
    after: str | None = None
    while True:
        size = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(rows))
        document = client.usage(**params, limit=size, after=after)
        rows += document["rows"]
        after = document["next"]
        if after is None and limit is None and params["by"] == "call" and len(rows) != document["total"]["calls"]:
            rows = []  # earlier calls were settled while we read: read once more, so that the total is the rows' sum
            continue
        if after is None or (limit is not None and len(rows) >= limit):
            return document | {"rows": rows}
        if params["by"] == "call" and params["until"] is None:  # calls that come while we read are not of this bill
            params = params | {"until": _just_after(rows[0]["started"])}


def _just_after(moment: str) -> str:
    return (dt.datetime.fromisoformat(moment) + dt.timedelta(milliseconds=1)).isoformat(timespec="milliseconds")


def _page(document: dict[str, Any], wide: bool) -> str:
    """The table and what is to be said beneath it."""
    parts = []
    if not document["total"]["calls"]:
        parts.append("No calls, nothing to pay.")
    else:
        table, rounded = _fitting(_calls(document, wide) if document["by"] == "call" else _sums(document), wide)
        parts += [table, "", *_notes(document)]
        if rounded:
            parts.append("Amounts are rounded to fit, so that they still add up; --wide shows every digit.")
    if document["unsettled"]:
        parts.append(f"{document['unsettled']} calls are not in this bill yet; ask again in a moment.")
    return "\n".join(parts)


def _notes(document: dict[str, Any]) -> Iterator[str]:
    rows, total = document["rows"], document["total"]
    books = ", ".join(map(str, total["price_books"]))
    days = {row["started"][:10] for row in rows if "started" in row}
    when = f" on {days.pop()}" if len(days) == 1 and _hidden(document) is None else ""
    yield f"{_calls_text(total['calls'])}{when} (UTC), in {document['currency']}, by price book {books}."
    free = total["calls"] - total["charged_calls"]
    if free:
        yield f"{_calls_text(free)} that never began, or that the platform failed, cost nothing."
    if total["charged_calls"]:
        yield f"Each call is rounded up: you were billed {_number(total['rounding_ms'])} ms more than used."


def _calls(document: dict[str, Any], wide: bool) -> Grid:
    rows: list[Line] = document["rows"]
    ids = [row["invocation"] for row in rows]
    length = 36 if wide else _unique(ids)
    one_day = len({row["started"][:10] for row in rows}) == 1
    lines: list[tuple[str, ...]] = [
        (
            f"{row['invocation'][-length:]}{'#' + str(row['attempt']) if row['attempt'] > 1 else ''}",
            row["started"][11:19] if one_day else row["started"][5:19].replace("T", " "),
            row["function"],
            str(row["revision"]),
            _printable(row["trigger"] if wide else row["trigger"].partition(" ")[0]),
            row["outcome"],
            "yes" if row["cold"] else "",
            row["duration_ms"],
            str(row["billed_ms"]),
            str(row["memory_mb"]),
            row["gb_seconds"],
            row["price"],
        )
        for row in rows
    ]
    hidden, total = _hidden(document), document["total"]
    if hidden is not None:
        lines.append((f"{hidden['calls']} more", *[""] * 6, *_amounts(hidden, "")))
    lines.append(("total", *[""] * 6, *_amounts(total, "")))
    heads = ("call", "time", "function", "rev", "trigger", "outcome", "cold", "ms", "billed", "MB", "GB-s", "price")
    return Grid(heads, lines, numbers=7, folding=(2, 4))


def _sums(document: dict[str, Any]) -> Grid:
    by: str = document["by"].partition(":")[0]
    rows: list[Line] = [] if by == "total" else list(document["rows"])
    hidden = _hidden(document)
    named = [(row[by], row) for row in rows] + ([("others", hidden)] if hidden else []) + [("total", document["total"])]
    lines = [(name, str(row["calls"]), str(row["cold_calls"]), *_amounts(row)) for name, row in named]
    heads = ("" if by == "total" else by, "calls", "cold", "ms", "billed", "GB-s", "price")
    return Grid(heads, lines, numbers=1, folding=(0,))


def _amounts(row: Line, *between: str) -> tuple[str, ...]:
    return (row["duration_ms"], str(row["billed_ms"]), *between, row["gb_seconds"], row["price"])


def _hidden(document: dict[str, Any]) -> Line | None:
    """The sum of all that matches and is not shown: exact, as a difference of exact decimals."""
    total, rows = document["total"], document["rows"]
    if document["next"] is None:
        return None

    def rest(key: str) -> str:
        with localcontext(prec=EXACT_DIGITS):
            return format(Decimal(total[key]) - sum(Decimal(row[key]) for row in rows), "f")

    calls = total["calls"] - sum(row.get("calls", 1) for row in rows)
    cold = total["cold_calls"] - sum(row["cold_calls"] if "cold_calls" in row else row["cold"] for row in rows)
    amounts = {key: rest(key) for key in ("duration_ms", "billed_ms", "gb_seconds", "price")}
    return {"calls": calls, "cold_calls": cold} | amounts


class Grid(NamedTuple):
    """A table before it is laid out. The last line is the total."""

    heads: Sequence[str]
    lines: list[tuple[str, ...]]
    numbers: int  # columns from here on hold numbers; the last two are GB-seconds and price
    folding: tuple[int, ...]  # columns that may break into several lines


def _fitting(grid: Grid, wide: bool) -> tuple[str, bool]:
    """The table as text, as exact as the terminal is wide; and whether anything had to be rounded."""
    terminal = sys.stdout.isatty()
    out = io.StringIO()
    width = None if terminal and not wide else UNWRAPPED
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False, markup=False)
    unbounded = console.options.update(width=UNWRAPPED)
    for tier in TIERS:
        table, rounded = _table(grid, tier)
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines()), rounded


def _table(grid: Grid, tier: Tier) -> tuple[Table, bool]:
    """Numbers stand on the right, their decimal points below each other."""
    gap, *decimals = tier
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    for n, head in enumerate(grid.heads):
        right = n >= grid.numbers
        table.add_column(head, justify="right" if right else "left", no_wrap=n not in grid.folding, overflow="fold")
    exact = [list(column) for column in zip(*grid.lines, strict=True)]
    columns = [_aligned(column) if n >= grid.numbers else column for n, column in enumerate(exact)]
    kept = [*columns[:-2], *map(_rounded, columns[-2:], decimals)]
    lines = list(zip(*kept, strict=True))
    for line in lines[:-1]:
        table.add_row(*line)
    table.add_section()
    table.add_row(*lines[-1], style="bold")
    return table, kept != columns


def _aligned(column: Sequence[str]) -> list[str]:
    """Numbers with equally many decimals; zeros that are added say nothing new."""
    decimals = max(len(cell.partition(".")[2]) for cell in column)
    return [f"{Decimal(cell):.{decimals}f}" if cell else "" for cell in column]


def _rounded(column: list[str], decimals: int | None) -> list[str]:
    """Numbers and, last, their sum, with fewer decimals: running sums are rounded, so they still add up exactly."""
    if decimals is None or len(column[0].partition(".")[2]) <= decimals:
        return column
    step = Decimal(1).scaleb(-decimals)
    with localcontext(prec=EXACT_DIGITS):
        sums = [s.quantize(step) for s in accumulate(map(Decimal, column[:-1]), initial=Decimal(0))]
        return [*(format(after - before, "f") for before, after in pairwise(sums)), format(sums[-1], "f")]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _unique(ids: list[str]) -> int:
    """How many characters of their ends tell these ids apart."""
    whole = len(set(ids))
    return next((n for n in range(SHORT_ID, 36) if len({one[-n:] for one in ids}) == whole), 36)


def _calls_text(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _number(text: str) -> str:
    return text.rstrip("0").rstrip(".")
