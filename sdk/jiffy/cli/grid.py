"""Tables of exact numbers with a total: as exact as the terminal is wide, and always adding up.

Where digits must go, running sums are rounded and their differences shown, so the last line stays the sum of the rest.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from decimal import Decimal, localcontext
from itertools import accumulate, pairwise
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

EXACT_DIGITS = 100  # more than any amount has, so that no sum is rounded
UNWRAPPED = 10_000  # width of a table that goes into a file or a pipe

Tier = tuple[int, int | None, int | None]  # spaces between columns; decimals of GB-s and price, None for all
TIERS: tuple[Tier, ...] = ((2, None, None), (1, None, None), (1, 8, 15), (1, 6, 12), (1, 4, 10))


class Grid(NamedTuple):
    """A table before it is laid out. The last line is the total."""

    heads: Sequence[str]
    lines: list[tuple[str, ...]]
    numbers: int  # columns from here on hold numbers; the last two are GB-seconds and price
    folding: tuple[int, ...]  # columns that may break into several lines


def fitting(grid: Grid, wide: bool) -> tuple[str, bool]:
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
