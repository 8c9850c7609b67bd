"""Rows of a bill as CSV or JSON lines, streamed: one page in memory, however many there are.

A page is made text in a thread, so that calls don't wait for a bill. What fails, fails before the answer has begun.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from starlette.responses import Response, StreamingResponse

from gateway.ledger import Ledger
from gateway.ledger.lines import Attempt, Sum, nothing
from gateway.ledger.questions import By, Question

PAGE_ROWS = 1000  # rows in memory at a time
FORMATS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}

Rows = Sequence[Attempt] | Sequence[Sum]


async def stream(ledger: Ledger, question: Question, form: str, limited: bool) -> Response:
    """All rows, or as many as the question's limit."""
    left = question.limit if limited else None
    size = question.limit if question.dearest else min(PAGE_ROWS, left or PAGE_ROWS)
    pages = ledger.pages(replace(question, limit=size))
    first = await anext(pages)
    text: Callable[[Rows], bytes] = _csv_rows if form == "csv" else _json_lines

    async def body() -> AsyncIterator[bytes]:
        nonlocal left
        if form == "csv":
            yield _csv_text([columns(question.by)])
        page: Rows = first
        while True:
            if left is not None:
                page = page[:left]
                left -= len(page)
            yield await asyncio.to_thread(text, page)
            if left == 0:
                return
            try:
                page = await anext(pages)
            except StopAsyncIteration:
                return

    return StreamingResponse(body(), media_type=FORMATS[form])


def columns(by: By) -> list[str]:
    if by is not By.CALL:
        return list(nothing("" if by is By.TOTAL else by.value).to_dict())
    return list(Attempt.COLUMNS)


def _json_lines(rows: Rows) -> bytes:
    return "".join(f"{json.dumps(row.to_dict(), ensure_ascii=False)}\n" for row in rows).encode()


def _csv_rows(rows: Rows) -> bytes:
    return _csv_text([[_cell(value) for value in row.to_dict().values()] for row in rows])


def _csv_text(rows: Sequence[Sequence[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)  # RFC 4180
    return out.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(map(str, value)) if isinstance(value, list) else value
