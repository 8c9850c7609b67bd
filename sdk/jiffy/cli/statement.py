"""`jiffy bill statement|statements|close|advice|--compare`: a month's bill, and what would be cheaper."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from jiffy.client import Client
from jiffy.contract.errors import InvalidRequest, Unavailable
from jiffy.costs import Costs

from .screen import columns, counted, json_option, short, show_json, size

ADVICE_LINES = 3  # beneath a table; `jiffy bill advice` shows all


@click.command()
@click.argument("month")
@click.option("--html", "page", metavar="FILE", help="Write it as one HTML page that prints well; - is stdout.")
@json_option
def statement(month: str, page: str | None, as_json: bool) -> None:
    """Show what MONTH (2026-11) comes to, free tier and volume tiers included.

    A month that is not closed shows how it stands now.
    """
    with Client() as client:
        if page is not None:
            _write(page, Costs(client).statement_page(month))
            return
        document = Costs(client).statement(month)
    if as_json:
        show_json(document)
    else:
        click.echo(_statement(document))


@click.command()
@json_option
def statements(as_json: bool) -> None:
    """List the closed months."""
    with Client() as client:
        found = Costs(client).statements()
    if as_json:
        show_json({"statements": found})
    elif not found:
        click.echo("No month is closed yet; `jiffy bill close MONTH` closes one that is over.")
    else:
        rows = [(one["number"], one["month"], one["closed"], one["total"], one["currency"]) for one in found]
        click.echo(columns(("number", "month", "closed", "total", "currency"), rows))


@click.command()
@click.argument("month")
@json_option
def close(month: str, as_json: bool) -> None:
    """Close MONTH (2026-11), once it is over: freeze and number its statement.

    Calls of that month which are settled later stand on the next open month's bill, marked as late. Closing a month
    again changes nothing.
    """
    with Client() as client:
        document = Costs(client).close(month)
    if as_json:
        show_json(document)
    else:
        click.echo(f"{document['month']} is closed: statement {document['number']}, {_total(document)}")


@click.command()
@click.option("--function", metavar="NAME", help="Only one function.")
@click.option("--since", metavar="WHEN", default="30d", show_default=True, help="From then on: 2026-11-01, 24h ago, …")
@json_option
def advice(function: str | None, since: str, as_json: bool) -> None:
    """Show which functions declare more memory than they use, and what less of it would save."""
    with Client() as client:
        found = Costs(client).advice(function=function, since=since)
        currency = Costs(client).price_books()["currency"]
    if as_json:
        show_json({"currency": currency, "advice": found})
    else:
        lines = advice_lines(found, currency, len(found))
        click.echo("\n".join(lines) or "Nothing to save: no function of 10 calls or more declares far too much memory.")


COMMANDS = (statement, statements, close, advice)


def advice_lines(found: Sequence[Mapping[str, Any]], currency: str, limit: int = ADVICE_LINES) -> list[str]:
    """One line for each function that declares too much memory."""
    lines = [
        f"{one['function']} never used more than {size(one['max_memory_bytes'])}: at {one['suggested_mb']} MB instead "
        f"of {one['memory_mb']} you would have saved {short(one['saving'])} {currency} of {short(one['price'])}."
        for one in found[:limit]
    ]
    return lines if len(found) <= limit else [*lines, f"… and {len(found) - limit} more: jiffy bill advice"]


def anomaly_lines(found: Sequence[Mapping[str, Any]], currency: str) -> list[str]:
    """One line for each function whose daily cost left its usual range."""
    return [
        f"Unusual: {one['function']} cost {short(one['cost'])} {currency} on {one['day']}; on most days it is "
        f"{short(one['usual_low'])} to {short(one['usual_high'])}."
        for one in found
    ]


def show_comparison(book: str, span: Mapping[str, str | None], as_json: bool) -> None:
    """The same calls under another price book."""
    try:
        with Client() as client:
            document = Costs(client).comparison(book, **span)
    except InvalidRequest as exc:
        raise click.UsageError(exc.message) from exc
    if as_json:
        show_json(document)
        return
    other = document["compared_with"]
    rows: list[Sequence[object]] = [
        (row["function"], f"{row['calls']:,}", row["price"], row[book]) for row in document["rows"]
    ]
    for name, key in (("list price", "list_price"), ("with free and volume tiers, as one month", "total")):
        rows.append((name, f"{document['calls']:,}", document[key]["price"], document[key][book]))
    click.echo(columns(("function", "calls", f"here, {document['currency']}", f"{book}, {other['currency']}"), rows))
    click.echo(f"\n{book} is {other['name']}. Calls of less than 128 MB, which it does not have, count as they are.")


def _statement(document: Mapping[str, Any]) -> str:
    state = f"statement {document['number']}, closed {document['closed']}" if document["closed"] else "not closed yet"
    rows: list[Sequence[object]] = [
        (
            f"price book {line['price_book']}{', ' + line['runtime'] if line['runtime'] else ''}",
            f"{line['charged_calls']:,} × {line['per_call']}",
            f"{line['gb_seconds']} × {line['per_gb_second']}",
            line.get("calls_price", line["price"]),  # one that an earlier release closed has calls alone
        )
        for line in document["lines"]
    ]
    rows += [
        (
            f"kept ready, price book {line['price_book']}{', ' + line['runtime'] if line['runtime'] else ''}",
            "",
            f"{line['provisioned_gb_seconds']} × {line['per_provisioned_gb_second']}",
            line["provisioned_price"],
        )
        for line in document["lines"]
        if line.get("provisioned_gb_seconds", "0") != "0"
    ]
    rows += [(one["name"], "", one["quantity"], one["price"]) for one in document["adjustments"]]
    rows.append(("to pay", "", "", document["total"]))
    parts = [f"{document['month']}, {document['tenant']}: {state}", ""]
    parts += [columns(("", "calls", "GB-seconds", document["currency"]), rows), ""]
    late = document["late"]
    if late["calls"]:
        parts.append(f"{counted(late['calls'], 'call')} of earlier months that came late: {late['price']}.")
    parts += advice_lines(document["advice"], document["currency"])
    return "\n".join(parts).rstrip()


def _total(document: Mapping[str, Any]) -> str:
    return f"{document['total']} {document['currency']}"


def _write(page: str, text: str) -> None:
    if page == "-":
        sys.stdout.write(text)
        return
    try:
        Path(page).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise Unavailable(f"can't write {page}: {exc.strerror}") from exc
    click.echo(f"written: {page}")
