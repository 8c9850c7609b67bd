"""/v1/statements: what a month came to, as JSON or as a page to print; closing a month."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gateway.ledger import Ledger, months
from gateway.ledger.page import page
from gateway.openapi import Endpoint
from gateway.routes import caller
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest

# The page is complete: it needs, and may load, nothing from anywhere.
PAGE_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


class Statements:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/statements/{month}"
        return (
            Endpoint("GET", "/v1/statements", self.all, "All closed months, with numbers and totals.", errors=("503",)),
            Endpoint(
                *("GET", path, self.show, "The statement of a month: as it was closed, or as it stands now."),
                query={"format": "json (the default) or html, one page that needs nothing else"},
                errors=("400", "503"),
            ),
            Endpoint(
                *("POST", f"{path}/close", self.close, "Close a month that is over: freeze and number its statement."),
                errors=("400", "409", "503"),
                role=Role.ADMIN,
            ),
        )

    async def all(self, request: Request) -> Response:
        return JSONResponse({"statements": await self._ledger.statements(caller.tenant(request))})

    async def show(self, request: Request) -> Response:
        form = request.query_params.get("format") or "json"
        if form not in ("json", "html"):
            raise InvalidRequest(f"format = {form[:40]!r}; allowed: json, html")
        await self._ledger.settle_now()
        document = await self._ledger.statement(_month(request), caller.tenant(request))
        if form == "html":
            return HTMLResponse(page(document), headers=PAGE_HEADERS)
        return JSONResponse(document)

    async def close(self, request: Request) -> Response:
        return JSONResponse(await self._ledger.close_month(_month(request), caller.tenant(request)))


def _month(request: Request) -> int:
    text = request.path_params["month"]
    try:
        return months.parse(text)
    except ValueError as exc:
        raise InvalidRequest(f"month = {text[:40]!r}; allowed: {exc}") from None
