"""Bar charts as inline SVG: for one page that needs nothing else, no library is lighter. Pure: numbers in, markup out.

Colours and letters come from the page's style sheet (the classes bar, axis, value); every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 720
HEIGHT = 180  # of columns, without what is written below them
ROW = 24


class Bar(NamedTuple):
    """One bar; only relations between sizes count."""

    label: str
    size: float
    note: str  # the exact value, for people


def columns(bars: Sequence[Bar], title: str) -> str:
    """Upright bars from left to right, such as days."""
    largest = max((bar.size for bar in bars), default=0) or 1
    step = WIDTH / max(1, len(bars))
    parts = []
    for n, bar in enumerate(bars):
        high = max(0.0, bar.size) / largest * (HEIGHT - 20)
        x, wide = n * step + step * 0.1, step * 0.8
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{HEIGHT - high:.1f}" width="{wide:.1f}" height="{high:.1f}">'
            f"<title>{escape(bar.label)}: {escape(bar.note)}</title></rect>"
        )
        parts.append(
            f'<text class="axis" x="{x + wide / 2:.1f}" y="{HEIGHT + 14}" text-anchor="middle">'
            f"{escape(bar.label[-2:])}</text>"
        )
    parts.append(f'<line class="axis" x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"/>')
    return _svg(parts, HEIGHT + 20, title)


def rows(bars: Sequence[Bar], title: str) -> str:
    """Lying bars below each other, such as functions, each with its value."""
    largest = max((bar.size for bar in bars), default=0) or 1
    parts = []
    for n, bar in enumerate(bars):
        y, wide = n * ROW, max(0.0, bar.size) / largest * (WIDTH - 380)
        parts.append(f'<text class="axis" x="0" y="{y + 16}">{escape(_short(bar.label))}</text>')
        parts.append(f'<rect class="bar" x="200" y="{y + 4}" width="{wide:.1f}" height="{ROW - 8}"/>')
        parts.append(f'<text class="value" x="{206 + wide:.1f}" y="{y + 16}">{escape(bar.note)}</text>')
    return _svg(parts, max(1, len(bars)) * ROW, title)


def _svg(parts: list[str], high: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {high}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _short(label: str) -> str:
    return label if len(label) <= 28 else label[:27] + "…"
