"""/v1/costs/…: what calls would cost: under another price book, with less memory, and calls that are still to come."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.catalog import Catalog
from gateway.ledger import Ledger, bookfile, estimate
from gateway.ledger.estimate import Load
from gateway.ledger.prices import PriceBook
from gateway.ledger.questions import By, Question
from gateway.openapi import Endpoint
from gateway.routes import caller
from gateway.routes.usage import parse
from jiffy.contract import limits
from jiffy.contract.errors import InvalidRequest, SpecError
from jiffy.contract.spec import check_name

SPAN = {"function": "only this function", "since": "a day, a time, or how long ago", "until": "likewise"}
SPAN |= {"month": "2026-11, in place of since and until"}
# What "python3", the default of jiffy.toml, means: the version that Jiffy itself runs on.
DEFAULT_RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
LOAD = {
    "calls": "a month, such as 2e6",
    "duration_ms": "of one call",
    "memory_mb": "of the function",
    "runtime": f"such as python3.11; default: {DEFAULT_RUNTIME}",
    "cold_share": "of the calls, 0 to 1; default 0",
    "init_ms": "of a cold start; default 0",
    "compare": f"another price book: {', '.join(bookfile.EXAMPLES)}",
}
CALLS_MAX, DURATION_MAX_MS = 10**12, int(limits.TIMEOUT_MAX_S * 1000)
SEEN_MS = 30 * 86_400_000  # an estimate looks at what a function did lately
_RUNTIME = re.compile(r"[a-z0-9.]{1,40}")


class Costs:
    def __init__(self, ledger: Ledger, catalog: Catalog) -> None:
        self._ledger = ledger
        self._catalog = catalog

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/v1/costs/comparison", self.comparison, "The same calls under another price book."),
                query={"book": ", ".join(bookfile.EXAMPLES), **SPAN},
                errors=("400", "503"),
            ),
            Endpoint(
                *("GET", "/v1/costs/advice", self.advice, "Functions that declare more memory than they use."),
                query=SPAN,
                errors=("400", "503"),
            ),
            Endpoint(
                *("GET", "/v1/costs/anomalies", self.anomalies, "Functions whose daily cost left its usual range."),
                errors=("503",),
            ),
            Endpoint(
                *("GET", "/v1/costs/estimate", self.estimate, "What a month of calls will cost."),
                query=LOAD,
                errors=("400",),
            ),
            Endpoint(
                *("GET", "/v1/costs/estimate/{name}", self.function, "What a million calls of a function will cost."),
                errors=("400", "404", "503"),
            ),
        )

    async def comparison(self, request: Request) -> Response:
        query = dict(request.query_params)
        name = query.pop("book", "")
        other = _example(name)
        question = self._question(request, query)
        await self._ledger.settle_now()
        found = await self._ledger.compare(question, other)
        return JSONResponse(found.to_dict(other, name, self._ledger.price_list.currency))

    async def advice(self, request: Request) -> Response:
        question = self._question(request, dict(request.query_params))
        await self._ledger.settle_now()
        found = await self._ledger.advice(question)
        return JSONResponse({"currency": self._ledger.price_list.currency, "advice": [one.to_dict() for one in found]})

    async def anomalies(self, request: Request) -> Response:
        await self._ledger.settle_now()
        found = await self._ledger.anomalies(caller.tenant(request))
        document = {"currency": self._ledger.price_list.currency, "anomalies": [one.to_dict() for one in found]}
        return JSONResponse(document)

    async def estimate(self, request: Request) -> Response:
        query = dict(request.query_params)
        name = query.pop("compare", "")
        load = _load(query)
        book = self._ledger.price_list.at(self._ledger.now_ms())
        document = {"estimate": {"runtime": load.runtime} | estimate.of_load(load, caller.tenant(request), book)}
        if name:
            document[name] = estimate.of_load(load, "", _example(name))
        return JSONResponse(document)

    async def function(self, request: Request) -> Response:
        """From the newest revision that was called lately, at the memory that the live one declares."""
        name, tenant = check_name(request.path_params["name"]), caller.tenant(request)
        live = (await self._catalog.find(tenant, name)).revision
        await self._ledger.settle_now()
        seen = await self._ledger.newest_revision(tenant, name, self._ledger.now_ms() - SEEN_MS)
        document: dict[str, object] = {"function": name, "revision": live.number, "estimate": None, "kept_ready": None}
        book = self._ledger.price_list.at(self._ledger.now_ms())
        if live.min_instances:
            document["kept_ready"] = estimate.of_kept(live.min_instances, live.memory_mb, tenant, live.runtime, book)
        if seen is not None:
            number, memory_mb, total = seen
            found = estimate.of_function(total, memory_mb, live.memory_mb, tenant, live.runtime, book)
            document["estimate"] = {"revision_seen": number} | found
        return JSONResponse(document)

    def _question(self, request: Request, query: Mapping[str, str]) -> Question:
        for key in query:
            if key not in SPAN:
                raise InvalidRequest(f"unknown parameter {key[:40]!r}; allowed: {', '.join(SPAN)}")
        return parse({**query, "by": By.TOTAL.value}, caller.tenant(request), self._ledger.now_ms())[0]


def _example(name: str) -> PriceBook:
    try:
        return bookfile.example(name)
    except SpecError as exc:
        raise InvalidRequest(exc.message) from exc


def _load(query: Mapping[str, str]) -> Load:
    for key in query:
        if key not in LOAD:
            raise InvalidRequest(f"unknown parameter {key[:40]!r}; allowed: {', '.join(LOAD)}")
    calls = int(_number(query, "calls", 0, CALLS_MAX))
    runtime = query.get("runtime", "")
    if runtime and not _RUNTIME.fullmatch(runtime):
        raise InvalidRequest(f"runtime = {runtime[:40]!r}; allowed: a runtime such as python3.11")
    return Load(
        calls=calls,
        duration_us=int(_number(query, "duration_ms", 0, DURATION_MAX_MS) * 1000),
        memory_mb=int(_number(query, "memory_mb", limits.MEMORY_MIN_MB, limits.MEMORY_MAX_MB)),
        runtime=DEFAULT_RUNTIME if runtime in ("", "python3") else runtime,
        cold_calls=int(calls * _number(query, "cold_share", 0, 1, "0")),
        init_us=int(_number(query, "init_ms", 0, int(limits.INIT_MAX_S * 1000), "0") * 1000),
    )


def _number(query: Mapping[str, str], key: str, low: int, high: int, default: str = "") -> Decimal:
    text = query.get(key) or default
    try:
        value = Decimal(text) if len(text) <= 40 else None
    except InvalidOperation:
        value = None
    if value is None or not value.is_finite() or not low <= value <= high:
        raise InvalidRequest(f"{key} = {text[:40]!r}; allowed: a number from {low} to {high}")
    return value
