"""GET /v1/usage: what calls cost, one by one or added up by function, tag, day …, as JSON, or streamed (export.py).

Reads and checks the parameters; the ledger answers. docs/billing.md explains every field.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.ledger import Ledger, months, prices
from gateway.ledger.lines import moment_text
from gateway.ledger.questions import By, Question
from gateway.openapi import Endpoint
from gateway.routes import caller
from gateway.routes.export import FORMATS, stream
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest, SpecError
from jiffy.contract.spec import check_name

LIMIT_DEFAULT, LIMIT_MAX = 100, 10_000  # rows of one page; 10,000 calls are 5 MB of JSON

_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_POSITION = re.compile(r"\d{1,16}\.[0-9a-f]{32}\.\d{1,10}")
_TIMES = {
    By.HOUR: re.compile(r"\d{4}-\d\d-\d\dT\d\d:00Z"),
    By.DAY: re.compile(r"\d{4}-\d\d-\d\d"),
    By.MONTH: re.compile(r"\d{4}-\d\d"),
}
_REVISION = re.compile(r"[a-z0-9-]{1,64}:\d{1,10}")
_NAME_MAX_CHARS = 4096
_LOST_PLUS = re.compile(r"(T[\d:.,]*) (\d\d:?\d\d)$")  # an unescaped + arrives as a space
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST_MS = 253_402_214_400_000  # the last day that has a date: of times beyond, and before 1970, there are no calls

T = TypeVar("T")


class UsageRoute:
    """The bill's endpoint."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/v1/usage", self.usage, "What calls cost, one by one or added up."),
                query={
                    "by": f"{', '.join(By)}; tag:NAME for the values of one tag",
                    "function": "only this function",
                    "order": "time (the default), or price: the dearest calls first",
                    "since": "a day, an ISO time, or a time ago such as 24h",
                    "until": "likewise",
                    "month": "what stands on the bill of a month such as 2026-11, in place of since and until",
                    "limit": "rows of a page",
                    "after": "`next` of the page before",
                    "format": "json (the default), or all rows, streamed: csv, jsonl",
                },
                errors=("400", "503"),
            ),
        )

    async def usage(self, request: Request) -> Response:
        asking = caller.of(request)
        question, form = parse(request.query_params, asking.tenant, self._ledger.now_ms())
        if question.tenant is None:
            asking.need(Role.ADMIN)
        waiting = await self._ledger.settle_now()
        if form in FORMATS:
            return await stream(self._ledger, question, form, "limit" in request.query_params)
        found = await self._ledger.ask(question)
        return JSONResponse(
            {
                "currency": self._ledger.price_list.currency,
                "price_book": self._ledger.price_list.at(self._ledger.now_ms()).version,
                "by": question.by.value,
                "since": None if question.since_ms is None else moment_text(question.since_ms),
                "until": None if question.until_ms is None else moment_text(question.until_ms),
                "rows": [row.to_dict() for row in found.rows],
                "total": found.total.to_dict(),
                "next": found.next,
                "unsettled": waiting,
            }
            | ({"provisioned_price": prices.text(found.provisioned_price)} if question.by is By.CALL else {})
        )


def parse(query: Mapping[str, str], tenant: str, now_ms: int) -> tuple[Question, str]:
    """The question in a query string, and the format. Raises InvalidRequest naming the parameter."""
    for name in query:
        if name not in _CHECKS:
            close = difflib.get_close_matches(name, _CHECKS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InvalidRequest(f"unknown parameter {name!r}{hint}; allowed: {', '.join(_CHECKS)}")

    def read(name: str, check: Callable[[str], T], default: T) -> T:
        text = query.get(name)
        if text is None or text == "":
            return default
        try:
            return check(text)
        except ValueError as exc:
            raise InvalidRequest(f"{name} = {text[:60]!r}; allowed: {exc}") from exc

    everything: tuple[By, str | None] = (By.CALL, None)
    by, tag = read("by", _by, everything)
    question = Question(
        tenant=None if by is By.TENANT else tenant,
        by=by,
        tag=tag,
        dearest=read("order", lambda text: _order(text, by), False),
        function=read("function", _function, None),
        since_ms=read("since", lambda text: _moment(text, now_ms), None),
        until_ms=read("until", lambda text: _moment(text, now_ms), None),
        month=read("month", months.parse, None),
        limit=read("limit", _limit, LIMIT_DEFAULT),
        after=read("after", lambda text: _after(text, by), None),
    )
    if question.month is not None and (question.since_ms, question.until_ms) != (None, None):
        raise InvalidRequest("month stands in place of since and until: give one or the other")
    if question.since_ms is not None and question.until_ms is not None and question.until_ms <= question.since_ms:
        raise InvalidRequest(f"until = {query['until'][:60]!r}; allowed: a time after since")
    return question, read("format", _format, "json")


def _by(text: str) -> tuple[By, str | None]:
    name, colon, tag = text.partition(":")
    try:
        by = By(name)
        if colon and (by is not By.TAG or not tag):
            raise ValueError
    except ValueError:
        raise ValueError(f"{', '.join(By)}, or tag:NAME") from None
    return by, tag or None


def _order(text: str, by: By) -> bool:
    if text not in ("time", "price") or (text == "price" and by is not By.CALL):
        raise ValueError("time; by call also price: the dearest first")
    return text == "price"


def _format(text: str) -> str:
    if text not in ("json", *FORMATS):
        raise ValueError(", ".join(("json", *FORMATS)))
    return text


def _function(text: str) -> str:
    try:
        return check_name(text)
    except SpecError as exc:
        raise ValueError(f"the name of a function ({exc.message})") from None


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= LIMIT_MAX:
        raise ValueError(f"a whole number from 1 to {LIMIT_MAX}")
    return int(text)


def _moment(text: str, now_ms: int) -> int:
    ago = _AGO.fullmatch(text)
    if ago:
        return max(0, now_ms - int(ago[1]) * _MS[ago[2]])
    try:
        moment = dt.datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        return min(max(0, (moment - _EPOCH) // dt.timedelta(milliseconds=1)), _LAST_MS)
    except (ValueError, OverflowError):
        raise ValueError(
            "a day or time such as 2026-11-01 or 2026-11-01T08:30:00+01:00 (UTC unless it says so), "
            "or how long ago, such as 30m, 24h, 7d"
        ) from None


def _after(text: str, by: By) -> str:
    wanted = "the `next` of the page before, with the same `by`"
    if by is By.CALL:
        if not _POSITION.fullmatch(text):
            raise ValueError(wanted)
    elif by in _TIMES or by is By.REVISION:
        if not _TIMES.get(by, _REVISION).fullmatch(text):
            raise ValueError(wanted)
    elif by is By.FUNCTION:
        _function(text)
    elif by is By.TOTAL:
        raise ValueError("nothing: a total is one row")
    elif len(text) > _NAME_MAX_CHARS:
        raise ValueError(wanted)
    return text


_CHECKS = ("by", "function", "order", "since", "until", "month", "limit", "after", "format")
