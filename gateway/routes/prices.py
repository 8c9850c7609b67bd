"""/v1/prices: the price books that are published; add more. What is in one: gateway/ledger/bookfile.py."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.keyring import Caller
from gateway.ledger import Ledger, bookfile
from gateway.ledger.lines import moment_text
from gateway.ledger.prices import PriceBook, PriceList
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest, NotFound

BODY_MAX_BYTES = 1024 * 1024  # some thousand tenants with prices of their own


class Prices:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/prices"
        return (
            Endpoint("GET", path, self.all, "All price books, and which is in force."),
            Endpoint("GET", f"{path}/{{version}}", self.show, "One price book.", errors=("404",)),
            Endpoint(
                *("POST", path, self.publish, "Publish the price books of a TOML file; known ones must be unchanged."),
                body="application/toml",
                errors=("400", "409", "413", "503"),
                role=Role.ADMIN,
            ),
        )

    async def all(self, request: Request) -> Response:
        return JSONResponse(self._document(self._ledger.price_list, caller.of(request)))

    async def show(self, request: Request) -> Response:
        version = request.path_params["version"]
        known = {str(book.version): book for book in self._ledger.price_list.books}
        if version not in known:
            raise NotFound(f"there is no price book {version[:40]!r}; there is {', '.join(known)}")
        return JSONResponse({"currency": known[version].currency} | _book(known[version], caller.of(request)))

    async def publish(self, request: Request) -> Response:
        try:
            text = (await bodies.read(request, BODY_MAX_BYTES)).decode()
        except UnicodeDecodeError as exc:
            raise InvalidRequest(f"a price file must be UTF-8: {exc}") from exc
        await self._ledger.publish(bookfile.parse(text, "the price file"))
        return JSONResponse(self._document(self._ledger.price_list, caller.of(request)))

    def _document(self, known: PriceList, asking: Caller) -> dict[str, object]:
        now_ms = self._ledger.now_ms()
        return {
            "currency": known.currency,
            "now": moment_text(now_ms),
            "in_force": known.at(now_ms).version,
            "books": [_book(book, asking) for book in known.books],
        }


def _book(book: PriceBook, asking: Caller) -> dict[str, object]:
    """What other tenants pay is nobody's business."""
    if not asking.admin:
        book = replace(book, tenants={name: own for name, own in book.tenants.items() if name == asking.tenant})
    return bookfile.document(book)
