"""`jiffy bill`: what calls cost, as a table for people, or as JSON or CSV for machines.

The sums are the ledger's (GET /v1/usage), never this program's: the table only lays them out. When it shows fewer
rows than there are, one line stands for the others, so that the total is always the sum of what stands above it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal, localcontext
from typing import Any

import click

from jiffy.budgets import Budgets, sentence
from jiffy.client import Client
from jiffy.contract.errors import InvalidRequest
from jiffy.costs import Costs

from . import statement
from .export import export
from .grid import EXACT_DIGITS, Grid, fitting
from .screen import counted, json_option, printable, short, show_json

TABLE_CALLS = 50  # what a person reads; --limit shows more
PAGE_ROWS = 1000
SHORT_ID = 6  # characters of an id's random end: more where two of those shown agree
BY = ("call", "function", "revision", "route", "trigger", "tenant", "tag", "hour", "day", "month", "total")

TIMES = ("hour", "day", "month")
_READY = {"provisioned_gb_seconds": "ready GB-s", "idle_gb_seconds": "idle GB-s"}
BARS = "▁▂▃▄▅▆▇█"

Line = dict[str, Any]  # one row of GET /v1/usage


@click.group(invoke_without_command=True, short_help="Show what calls cost.")
@click.option("--function", metavar="NAME", help="Only the calls of one function.")
@click.option("--by", metavar="WHAT", default="call", help=f"One line for each: {', '.join(BY)}, tag:NAME.")
@click.option("--top", metavar="N", type=click.IntRange(1, 10_000), help="The N most expensive calls.")
@click.option("--since", metavar="WHEN", help="From then on: 2026-11-01, 2026-11-01T08:30, 30m, 24h, 7d ago.")
@click.option("--until", metavar="WHEN", help="Before then, written the same way.")
@click.option("--month", metavar="MONTH", help="What stands on the bill of a month, such as 2026-11.")
@click.option("--compare", metavar="BOOK", help="The same calls under another price book: aws-lambda.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help=f"At most N lines (table of calls: {TABLE_CALLS}).")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="How to print.")
@click.option("--wide", is_flag=True, help="Whole ids and triggers in the table.")
@json_option
@click.pass_context
def bill(
    context: click.Context,
    function: str | None,
    by: str,
    top: int | None,
    since: str | None,
    until: str | None,
    month: str | None,
    compare: str | None,
    limit: int | None,
    form: str,
    wide: bool,
    as_json: bool,
) -> None:
    """Show what calls cost: exact and billed time, GB-seconds, price, and the total.

    Newest calls come first. Times and days are UTC. Prices are list prices: what a month's free tier and volume tiers
    take off stands in its statement.

    \b
    Examples:
      jiffy bill
      jiffy bill --function hello --since 24h
      jiffy bill --by day --since 30d
      jiffy bill --by tag:team --since 2026-11-01
      jiffy bill --top 10
      jiffy bill --month 2026-11 --by function
      jiffy bill --compare aws-lambda --since 30d
      jiffy bill statement 2026-11 --html november.html
      jiffy bill --format csv > bill.csv
    """
    if context.invoked_subcommand is not None:
        return
    span = {"function": function, "since": since, "until": until, "month": month}
    if compare is not None:
        statement.show_comparison(compare, span, as_json or form == "json")
        return
    if top is not None:
        span, limit = span | {"order": "price"}, top
    try:
        _show(span | {"by": by}, limit, "json" if as_json else form, wide)
    except InvalidRequest as exc:
        raise click.UsageError(exc.message) from exc


for command in (*statement.COMMANDS, export):
    bill.add_command(command)


def _show(params: dict[str, str | None], limit: int | None, form: str, wide: bool) -> None:
    advice: list[Line] = []
    pressing: list[str] = []
    with Client() as client:
        if form == "csv":
            for line in client.usage_csv(**params, limit=limit):
                click.echo(line)
            return
        if form == "table" and params["by"] == "call":
            limit = limit or TABLE_CALLS
        document = _fetch(client, params, limit)
        if params["function"] and not document["total"]["calls"]:
            client.function(params["function"])  # says that there is none, and which may have been meant
        if form == "table" and params["by"] == "function":
            advice = Costs(client).advice(**{key: params[key] for key in ("function", "since", "until", "month")})
        if form == "table":
            pressing = [sentence(budget) for budget in Budgets(client).pressing()]
            pressing += statement.anomaly_lines(Costs(client).anomalies(), document["currency"])
    if form == "json":
        show_json(document)
    else:
        click.echo("\n".join([_page(document, wide), *pressing, *statement.advice_lines(advice, document["currency"])]))


def _fetch(client: Client, params: dict[str, str | None], limit: int | None) -> dict[str, Any]:
    """The whole answer, or its first `limit` rows, as one document."""
    rows: list[Line] = []
    after: str | None = None
    again = params["by"] == "call" and limit is None
    while True:
        size = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(rows))
        document = client.usage(**params, limit=size, after=after)
        rows += document["rows"]
        after = document["next"]
        if after is None and again and len(rows) != document["total"]["calls"]:
            # Earlier calls were settled while we read: read once more, so that the total is the rows' sum.
            rows, again = [], False
            continue
        if after is None or (limit is not None and len(rows) >= limit):
            return document | {"rows": rows}
        if params["by"] == "call" and not params["until"] and not params["month"]:
            # Calls that come while we read are not of this bill.
            params = params | {"until": _just_after(rows[0]["started"])}


def _just_after(moment: str) -> str:
    return (dt.datetime.fromisoformat(moment) + dt.timedelta(milliseconds=1)).isoformat(timespec="milliseconds")


def _page(document: dict[str, Any], wide: bool) -> str:
    """The table and what is to be said beneath it."""
    parts = []
    if not document["total"]["calls"] and not _ready(document):
        beside = list(_beside(document))
        parts += ["No calls.", *beside] if beside else ["No calls, nothing to pay."]
    else:
        table, rounded = fitting(_calls(document, wide) if document["by"] == "call" else _sums(document), wide)
        parts += [table, "", *_notes(document)]
        if rounded:
            parts.append("Amounts are rounded to fit, so that they still add up; --wide shows every digit.")
    if document["unsettled"]:
        parts.append(f"{_are(document['unsettled'])} not in this bill yet; ask again in a moment.")
    return "\n".join(parts)


def _notes(document: dict[str, Any]) -> Iterator[str]:
    rows, total = document["rows"], document["total"]
    days = {row["started"][:10] for row in rows if "started" in row}
    when = f" on {days.pop()}" if len(days) == 1 and _hidden(document) is None else ""
    books = _books(total["price_books"])
    yield f"{counted(total['calls'], 'call')}{when} (UTC), in {document['currency']}, by {books}."
    free = total["calls"] - total["charged_calls"]
    if free:
        yield f"{counted(free, 'call')} that never began, or that the platform failed, cost nothing."
    if len(rows) > 1 and document["by"] in TIMES:
        yield f"Price, oldest to newest: {_sparkline([Decimal(row['price']) for row in reversed(rows)])}"
    if total["cold_calls"]:
        yield f"{total['cold_calls'] / total['calls']:.1%} of the calls were cold."
    used = Decimal(total["billed_ms"]) - Decimal(total["rounding_ms"])
    if total["charged_calls"]:
        more = Decimal(total["rounding_ms"]) / used if used > 0 else Decimal(0)
        share = f", {more:.1%} of that" if 0 < more < 10 else ""  # beyond that the milliseconds say it better
        yield f"Each call is rounded up: you were billed {_number(total['rounding_ms'])} ms more than used{share}."
    if ready := _ready(document):
        idle = Decimal(total["idle_gb_seconds"])
        yield (
            f"Instances were kept ready for {ready:,.1f} GB-s and idle in {idle / ready:.1%} of it; that cost "
            f"{short(total['provisioned_price'])} {document['currency']}."
        )
    yield from _beside(document)


def _books(versions: list[int]) -> str:
    """ "price book 1", "price books 1, 2 and 3"."""
    if not versions:
        return "no price book"
    *most, last = map(str, versions)
    return f"price books {', '.join(most)} and {last}" if most else f"price book {last}"


def _are(calls: int) -> str:
    return f"{counted(calls, 'call')} {'is' if calls == 1 else 'are'}"


def _ready(document: dict[str, Any]) -> Decimal:
    """GB-seconds of instances kept ready, of what the table adds up."""
    return Decimal(document["total"].get("provisioned_gb_seconds", 0))


def _beside(document: dict[str, Any]) -> Iterator[str]:
    """What is no call, and so not in a table of calls."""
    price = document.get("provisioned_price", "0")
    if price != "0":
        yield (
            f"Beside these calls, instances kept ready cost {short(price)} {document['currency']}: "
            "jiffy bill --by function"
        )


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
            printable(row["trigger"] if wide else row["trigger"].partition(" ")[0]),
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
    names = ("function", "trigger") if by == "trigger" else ("" if by == "total" else by,)
    named = [(tuple(row[name] for name in names), row) for row in rows]
    named += [(("others", "")[: len(names)], hidden)] if hidden else []
    named.append((("total", "")[: len(names)], document["total"]))
    ready = _READY if _ready(document) else {}
    lines = [
        (*map(printable, of), str(row["calls"]), str(row["cold_calls"]), *_amounts(row, *(row[key] for key in ready)))
        for of, row in named
    ]
    heads = (*names, "calls", "cold", "ms", "billed", *ready.values(), "GB-s", "price")
    return Grid(heads, lines, numbers=len(names), folding=tuple(range(len(names))))


def _amounts(row: Line, *between: str) -> tuple[str, ...]:
    return (row["duration_ms"], str(row["billed_ms"]), *between, row["gb_seconds"], row["price"])


def _hidden(document: dict[str, Any]) -> Line | None:
    """The sum of all that matches and is not shown: exact, as a difference of exact decimals."""
    total, rows = document["total"], document["rows"]
    if document["by"] == "total":
        return None
    calls = total["calls"] - sum(row.get("calls", 1) for row in rows)

    def rest(key: str) -> str:
        with localcontext(prec=EXACT_DIGITS):
            return format(Decimal(total.get(key, 0)) - sum(Decimal(row.get(key, 0)) for row in rows), "f")

    cold = total["cold_calls"] - sum(row["cold_calls"] if "cold_calls" in row else row["cold"] for row in rows)
    amounts = {key: rest(key) for key in ("duration_ms", "billed_ms", "gb_seconds", "price", *_READY)}
    if not calls and not any(map(Decimal, amounts.values())):
        return None
    return {"calls": calls, "cold_calls": cold} | amounts


def _sparkline(values: list[Decimal]) -> str:
    largest = max(values) or Decimal(1)
    return "".join(BARS[int(value / largest * (len(BARS) - 1))] for value in values)


def _unique(ids: list[str]) -> int:
    """How many characters of their ends tell these ids apart."""
    whole = len(set(ids))
    return next((n for n in range(SHORT_ID, 36) if len({one[-n:] for one in ids}) == whole), 36)


def _number(text: str) -> str:
    return text.rstrip("0").rstrip(".")
