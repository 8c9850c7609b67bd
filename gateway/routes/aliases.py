"""/v1/functions/{name}/aliases: names for revisions, moved at once and shared by percent."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.admission import known_name
from gateway.aliases import Aliases
from gateway.catalog import Catalog
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from jiffy.contract import aliases
from jiffy.contract.aliases import LIVE, Alias
from jiffy.contract.errors import InvalidRequest

BODY_MAX_BYTES = 4096
SHAPE = '{"weights": {"3": 90, "4": 10}}: percent by revision; what is left of 100 goes to the live one'


class AliasRoutes:
    def __init__(self, store: Aliases, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/functions/{name}/aliases/{alias}"
        return (
            Endpoint(
                *("GET", "/v1/functions/{name}/aliases", self.all, "The aliases of a function, and what they name."),
                errors=("404", "503"),
            ),
            Endpoint(
                *(
                    "PUT",
                    path,
                    self.set,
                    "Set an alias, or move it: percent by revision.",
                ),
                body="application/json",
                errors=("400", "404", "409", "413", "503"),
            ),
            Endpoint(
                *("DELETE", path, self.remove, "Remove an alias; the revisions stay."),
                status="204",
                answer="",
                errors=("404", "409", "503"),
            ),
        )

    async def all(self, request: Request) -> Response:
        tenant, name = caller.tenant(request), known_name(request.path_params["name"])
        await self._catalog.find(tenant, name)
        found = await self._store.of(tenant, name)
        return JSONResponse({"function": name, "aliases": [_document(one) for one in sorted(found.values())]})

    async def set(self, request: Request) -> Response:
        tenant, name = caller.tenant(request), known_name(request.path_params["name"])
        document = bodies.parse(await bodies.read(request, BODY_MAX_BYTES), SHAPE)
        alias = aliases.make(request.path_params["alias"], _weights(document))
        await self._catalog.find(tenant, name)
        await self._store.put(tenant, name, alias)
        await self._catalog.refresh(tenant, name)
        return JSONResponse({"function": name} | _document(alias))

    async def remove(self, request: Request) -> Response:
        tenant, name = caller.tenant(request), known_name(request.path_params["name"])
        await self._catalog.find(tenant, name)
        await self._store.remove(tenant, name, request.path_params["alias"])
        await self._catalog.refresh(tenant, name)
        return Response(status_code=204)


def _weights(document: Any) -> dict[int, int]:
    weights = document.get("weights") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(weights, dict):
        raise InvalidRequest(f"the body must be {SHAPE}")
    found: dict[int, int] = {}
    for revision, percent in weights.items():
        number = LIVE if revision == "live" else int(revision) if revision.isdecimal() and len(revision) < 10 else -1
        if number < 0 or (number == LIVE and revision != "live") or type(percent) is not int:
            raise InvalidRequest(f"{revision[:40]!r}: {str(percent)[:40]}; allowed: {SHAPE}")
        found[number] = percent
    return found


def _document(alias: Alias) -> dict[str, Any]:
    return {
        "alias": alias.name,
        "weights": {"live" if number == LIVE else str(number): percent for number, percent in alias.shares},
    }
