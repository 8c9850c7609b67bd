"""/v1/functions/{name}/logs: what a function printed, between START, END and REPORT lines as Lambda writes them.

Text is for people, format=json (one entry a line) for programs: there what a function prints can't pass for a line of
ours.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import NamedTuple

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.admission import known_name
from gateway.catalog import Catalog
from gateway.following import Following
from gateway.openapi import Endpoint
from gateway.routes import caller
from gateway.store import Store
from jiffy.contract import limits
from jiffy.contract.errors import InvalidRequest
from jiffy.contract.messages import LogEntry, Outcome

LIMIT_DEFAULT = 100
PARAMETERS = ("follow", "invocation", "limit", "since", "timestamps", "format")
SHORT_MIN = 6  # characters of an id's end; what they match by chance is shown, too
NEVER_RAN = (Outcome.THROTTLED, Outcome.PLATFORM)
PAGE = 100  # entries; at most 6 MB
CLOCKS_APART_MS = 60_000  # an id's time is its gateway's, an entry's is Redis's
_END = re.compile(r"[0-9a-f-]{6,35}")
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class _Question(NamedTuple):
    text: bool
    follow: bool
    limit: int
    invocation: str  # "" for all; else the id that is wanted, or its end
    start_ms: int | None
    stamped: bool
    tenant: str = ""
    removed: int = 0  # what revisions up to this number wrote is another function's, which had this name

    def wants(self, entry: LogEntry) -> bool:
        return entry.revision > self.removed and entry.invocation.endswith(self.invocation)

    def write(self, entry: LogEntry) -> bytes:
        if not self.text:
            return _line(entry)
        return _stamped(entry) if self.stamped else render(entry)


class Logs:
    def __init__(self, store: Store, catalog: Catalog, following: Following) -> None:
        self._store = store
        self._catalog = catalog
        self._following = following

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/v1/functions/{name}/logs", self.logs, "What a function printed."),
                query={
                    "follow": "true: go on with what comes",
                    "invocation": f"id of the only invocation to show, or its end: {SHORT_MIN} characters or more",
                    "limit": f"how many entries back, {LIMIT_DEFAULT} by default; a call makes one, or more when long",
                    "since": "milliseconds since 1970, or a time ago: 30s, 10m, 2h, 1d",
                    "timestamps": "true: each line begins with the time at which it got here",
                    "format": "text (the default) or json: one entry a line",
                },
                answer="text/plain",
                errors=("400", "404", "503"),
            ),
        )

    async def logs(self, request: Request) -> Response:
        name = known_name(request.path_params["name"])
        tenant = caller.tenant(request)
        await self._catalog.find(tenant, name)
        question = _question(request.query_params, self._store.now_ms())
        question = question._replace(tenant=tenant, removed=await self._store.removed(tenant, name))
        if question.follow:
            self._following.admit()
        past = self._past(name, question)
        first = await anext(past, None)  # what fails, fails before the answer has begun
        media_type = "text/plain; charset=utf-8" if question.text else "application/x-ndjson"
        headers = {"x-content-type-options": "nosniff"}  # a function's output is not a page of ours
        return StreamingResponse(self._body(name, question, first, past), media_type=media_type, headers=headers)

    async def _body(
        self,
        name: str,
        question: _Question,
        first: list[tuple[str, LogEntry]] | None,
        past: AsyncIterator[list[tuple[str, LogEntry]]],
    ) -> AsyncIterator[bytes]:
        after, page = "0", first
        while page is not None:
            for _, entry in page:
                if question.wants(entry):
                    yield question.write(entry)
            after = page[-1][0] if page else after
            page = await anext(past, None)
        if not question.follow:
            return

        async def read(after: str, wait_ms: int) -> list[tuple[str, LogEntry]]:
            return await self._store.logs_after(question.tenant, name, after, wait_ms)

        async for found in self._following.follow(read, after):
            if found is not None and question.wants(found[1]):
                yield question.write(found[1])

    async def _past(self, name: str, question: _Question) -> AsyncIterator[list[tuple[str, LogEntry]]]:
        """What is there already, page by page, oldest first."""
        if question.start_ms is None:
            yield await self._store.logs_last(question.tenant, name, question.limit)
            return
        start, left = str(max(0, question.start_ms)), limits.LOG_ENTRIES_MAX * 2
        while left > 0:
            page = await self._store.logs_since(question.tenant, name, start, PAGE)
            yield page
            if len(page) < PAGE:
                return
            start, left = f"({page[-1][0]}", left - len(page)


def _question(query: QueryParams, now_ms: int) -> _Question:
    for name in query:
        if name not in PARAMETERS:
            raise InvalidRequest(f"unknown parameter {name[:40]!r}; allowed: {', '.join(PARAMETERS)}")
    form, follow, stamped = query.get("format", "text"), _flag(query, "follow"), _flag(query, "timestamps")
    limit, invocation = query.get("limit", str(LIMIT_DEFAULT)), query.get("invocation", "")
    if form not in ("text", "json"):
        raise InvalidRequest(f"format = {form[:40]!r}; allowed: text, json")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= limits.LOG_ENTRIES_MAX:
        raise InvalidRequest(f"limit = {limit[:40]!r}; allowed: 1 to {limits.LOG_ENTRIES_MAX}")
    start_ms = _since(query.get("since", ""), now_ms)
    if invocation:
        start_ms = max(start_ms or 0, _born_ms(invocation) - CLOCKS_APART_MS)
    return _Question(form == "text", follow, int(limit), invocation, start_ms, stamped)


def _flag(query: QueryParams, name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false", "1", "0", ""):
        raise InvalidRequest(f"{name} = {text[:40]!r}; allowed: true, false")
    return text in ("true", "1")


def _since(text: str, now_ms: int) -> int | None:
    if not text:
        return None
    if match := _AGO.fullmatch(text):
        return now_ms - int(match[1]) * _UNIT_MS[match[2]]
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    raise InvalidRequest(f"since = {text[:40]!r}; allowed: milliseconds since 1970, or 30s, 10m, 2h, 1d")


def _born_ms(invocation: str) -> int:
    """When a UUIDv7 was made: entries before that need not be searched. Of an id's end alone: ever."""
    if len(invocation) < 36 and _END.fullmatch(invocation):
        return 0
    try:
        return uuid.UUID(invocation).int >> 80
    except ValueError as exc:
        raise InvalidRequest(
            f"invocation = {invocation[:40]!r}; allowed: an invocation's id, or its end as the bill shows it, "
            f"{SHORT_MIN} characters or more"
        ) from exc


def render(entry: LogEntry) -> bytes:
    """An entry as lines of text; whatever the function printed ends with a line break. A call that never began has no
    START, END and REPORT: its text is why.
    """
    if entry.first and entry.report is not None and entry.report[0] in NEVER_RAN and not entry.report[1] and entry.text:
        return entry.text
    lines: list[bytes] = []
    request = b"RequestId: " + entry.invocation.encode()
    if entry.first:
        lines.append(b"START %b Version: %d\n" % (request, entry.revision))
    if entry.text:
        lines.append(entry.text if entry.text.endswith(b"\n") else entry.text + b"\n")
    if entry.dropped_bytes:
        lines.append(b"[%d bytes more were printed and are not kept]\n" % entry.dropped_bytes)
    if entry.report is not None:
        lines += (b"END %b\n" % request, _report(request, entry.report))
    return b"".join(lines)


def _stamped(entry: LogEntry) -> bytes:
    at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return b"".join(b"%b  %b\n" % (at.encode(), line) for line in render(entry).removesuffix(b"\n").split(b"\n"))


def _report(request: bytes, report: tuple[str, int, int, int, int, int]) -> bytes:
    outcome, duration_us, billed_ms, memory_mb, max_memory_bytes, init_us = report
    parts = [
        b"REPORT " + request,
        b"Duration: %.2f ms" % (duration_us / 1000),
        b"Billed Duration: %d ms" % billed_ms,
        b"Memory Size: %d MB" % memory_mb,
        b"Max Memory Used: %d MB" % -(-max_memory_bytes // limits.MIB),
    ]
    if init_us:
        parts.append(b"Init Duration: %.2f ms" % (init_us / 1000))
    if outcome != "ok":
        parts.append(b"Status: " + outcome.encode())
    return b"\t".join(parts) + b"\n"


def _line(entry: LogEntry) -> bytes:
    document = entry._asdict() | {"text": entry.text.decode("utf-8", "replace")}
    if entry.report is not None:
        names = ("outcome", "duration_us", "billed_ms", "memory_mb", "max_memory_bytes", "init_us")
        document["report"] = dict(zip(names, entry.report, strict=True))
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"
