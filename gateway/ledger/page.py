"""A month's statement as one HTML page that needs nothing else and prints on paper. Pure: a document in, text out.

The document is statements.py's. Whatever a user can name (functions, triggers, runtimes) is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from typing import Any

from . import chart

CHART_ROWS = 12  # functions with a bar of their own; the table has all
_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --dim: #667085; --line: #d9dee7; --bar: #3b6fd4; }
* { box-sizing: border-box; }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
header { display: flex; justify-content: space-between; align-items: end; border-bottom: 2px solid var(--ink);
  padding-bottom: .75rem; gap: 2rem; }
.dim, small { color: var(--dim); } .big { font-size: 1.6rem; font-weight: 600; text-align: right; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--dim); font-weight: 500; } .n { text-align: right; white-space: nowrap; }
tfoot td { font-weight: 600; border-bottom: 0; border-top: 1px solid var(--ink); }
svg { width: 100%; height: auto; } .bar { fill: var(--bar); }
text.axis { font-size: 10px; fill: var(--dim); } line.axis { stroke: var(--line); } .value { font-size: 11px; }
@page { size: A4; margin: 16mm; }
@media print { body { margin: 0; max-width: none; padding: 0; } h2 { break-after: avoid; }
  tr, svg { break-inside: avoid; }
  .bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; } thead { display: table-header-group; } }
"""


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    title = _title(document)
    body = "".join((_head(document, title), _amounts(document), _days(document), _functions(document), _foot(document)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _title(document: dict[str, Any]) -> str:
    number = f"Statement {document['number']}" if document["number"] else "Statement, not closed yet"
    return f"{number} · {document['month']} · {document['tenant']}"


def _head(document: dict[str, Any], title: str) -> str:
    closed = f"closed {document['closed']}" if document["closed"] else f"as of {document['as_of']}"
    return (
        f"<header><div><h1>{escape(title)}</h1><div class=dim>{escape(document['since'][:10])} to before "
        f"{escape(document['until'][:10])} (UTC), {escape(closed)}</div></div>"
        f"<div class=big>{_money(document['total'])} {escape(document['currency'])}</div></header>"
    )


def _amounts(document: dict[str, Any]) -> str:
    lines = [
        (
            f"price book {line['price_book']}{', ' + line['runtime'] if line['runtime'] else ''}",
            f"{line['charged_calls']:,}",
            line["gb_seconds"],
            line["per_gb_second"],
            line["per_call"],
            line.get("calls_price", line["price"]),  # one that an earlier release closed has calls alone
        )
        for line in document["lines"]
    ]
    lines += [
        (
            f"kept ready, price book {line['price_book']}{', ' + line['runtime'] if line['runtime'] else ''}",
            "",
            line["provisioned_gb_seconds"],
            line["per_provisioned_gb_second"],
            "",
            line["provisioned_price"],
        )
        for line in document["lines"]
        if line.get("provisioned_gb_seconds", "0") != "0"
    ]
    heads = ("", "calls", "GB-seconds", "per GB-second", "per call", "price")
    off = [(one["name"], "", one["quantity"], "", "", one["price"]) for one in document["adjustments"]]
    total = ("to pay", "", "", "", "", document["total"])
    return f"<h2>Amounts</h2>{_table(heads, [*lines, *off], total, numbers=1)}{_notes(document)}"


def _notes(document: dict[str, Any]) -> str:
    total, late = document["sum"], document["late"]
    notes = [f"{total['calls']:,} calls, of them {total['cold_calls']:,} cold and {total['failed_calls']:,} failed."]
    used = Decimal(total["billed_ms"]) - Decimal(total["rounding_ms"])
    if used > 0:
        notes.append(f"Rounding up each call adds {Decimal(total['rounding_ms']) / used:.1%} to the time used.")
    ready = Decimal(total.get("provisioned_gb_seconds", 0))
    if ready:
        idle = Decimal(total["idle_gb_seconds"])
        notes.append(
            f"Instances were kept ready for {ready:,.1f} GB-seconds and idle in {idle / ready:.1%} of it; that cost "
            f"{total['provisioned_price']}."
        )
    if late["calls"]:
        notes.append(f"{late['calls']:,} calls of earlier months, closed before they came, are in it: {late['price']}.")
    notes += [
        f"{one['function']} declares {one['memory_mb']} MB and never used more than "
        f"{one['max_memory_bytes'] / 1024 / 1024:.0f} MB: at {one['suggested_mb']} MB it would have cost "
        f"{one['saving']} less."
        for one in document["advice"]
    ]
    return "".join(f"<p>{escape(note)}</p>" for note in notes)


def _days(document: dict[str, Any]) -> str:
    bars = [
        chart.Bar(row["day"], float(row["price"]), f"{row['price']}, {row['calls']} calls") for row in document["days"]
    ]
    return f"<h2>Days (list price)</h2>{chart.columns(bars, 'price by day')}" if bars else ""


def _functions(document: dict[str, Any]) -> str:
    if not document["functions"]:
        return "<h2>Functions</h2><p>No calls.</p>"
    shown = document["functions"][:CHART_ROWS]
    bars = [chart.Bar(row["function"], float(row["price"]), row["price"]) for row in shown]
    return (
        f"<h2>Functions (list price)</h2>{chart.rows(bars, 'price by function')}"
        f"{_sums('function', document['functions'], document['sum'])}"
        f"<h2>Triggers</h2>{_sums('trigger', document['triggers'], document['sum'])}"
    )


def _sums(column: str, rows: Iterable[dict[str, Any]], total: dict[str, Any]) -> str:
    def name(row: dict[str, Any]) -> str:
        function = row.get("function", "") if column == "trigger" else ""  # an earlier release had none there
        return f"{function}: {row[column]}" if function else str(row[column])

    def cells(name: str, row: dict[str, Any]) -> tuple[str, ...]:
        counts = (f"{row['calls']:,}", f"{row['cold_calls']:,}", f"{row['billed_ms']:,}")
        return (name, *counts, row["rounding_ms"], row["gb_seconds"], row["price"])

    heads = (column, "calls", "cold", "billed ms", "of it rounding", "GB-seconds", "price")
    return _table(heads, [cells(name(row), row) for row in rows], cells("list price", total), numbers=1)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str], numbers: int) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if n >= numbers else ''}>{escape(c)}</{tag}>" for n, c in enumerate(cells))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f"<table><thead><tr>{line(heads, 'th')}</tr></thead><tbody>{body}</tbody>"
        f"<tfoot><tr>{line(total, 'td')}</tr></tfoot></table>"
    )


def _foot(document: dict[str, Any]) -> str:
    state = (
        "This statement is closed and does not change. Calls of this month that come later are on the next one."
        if document["closed"]
        else "This month is not closed: the amounts may still grow."
    )
    return f"<p><small>{state} Amounts are exact; no sum is rounded.</small></p>"


def _money(text: str) -> str:
    """The total for people: two decimals, or as many as show two digits of a small amount."""
    amount = Decimal(text)
    decimals = 2 if not amount or abs(amount) >= 1 else min(12, 1 - amount.adjusted())
    return escape(f"{amount:,.{decimals}f}")
