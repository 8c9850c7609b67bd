"""What all commands print alike: JSON documents, aligned columns, sizes and times for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Adds ``--json``, which every command that prints something has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(command)


def show_json(document: object) -> None:
    say(json.dumps(document, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """What others wrote, made harmless: what would steer a terminal, or turn a line around, is shown as its escape."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def say(text: str, *, err: bool = False) -> None:
    """Print what others wrote: to a terminal harmless, to a pipe or a file as it is."""
    stream = sys.stderr if err else sys.stdout
    click.echo(printable(text) if stream.isatty() else text, err=err)


def columns(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of left-aligned columns; nothing is cut off, and empty cells are "-". Without rows: nothing."""
    if not rows:
        return ""
    cells = [[shown(cell) if cell not in ("", None) else "-" for cell in row] for row in rows]
    widths = [max(len(line[n]) for line in [list(heads), *cells]) for n in range(len(heads))]
    lines = [click.style(_line(heads, widths), bold=True), *(_line(row, widths) for row in cells)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def size(count: int) -> str:
    """Bytes for people: "512 B", "1.4 KiB", "29.0 MiB"."""
    if count < 1024:
        return f"{count} B"
    value, unit = count / 1024, "KiB"
    for bigger in ("MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, bigger
    return f"{value:.1f} {unit}"


def shown(value: object) -> str:
    """Any value for people: "yes" and "no" for truth."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def counted(count: int, what: str) -> str:
    """``1 call``, ``2,000 calls``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def when(ms: int) -> str:
    """A time of day in the user's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def short(text: str) -> str:
    """An exact amount for people: three digits that count."""
    amount = Decimal(text)
    return f"{amount:,.2f}" if not amount or abs(amount) >= 100 else f"{amount:.{max(2, 2 - amount.adjusted())}f}"
