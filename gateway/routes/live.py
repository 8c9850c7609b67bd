"""/v1/functions/{name}/live: which revision is in service. A deploy moves it forward; this moves it anywhere."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.admission import known_name
from gateway.catalog import Catalog
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from gateway.store import Store
from jiffy.contract import routes
from jiffy.contract.errors import Conflict, InvalidRequest, NotFound
from jiffy.contract.messages import Revision

BODY_MAX_BYTES = 1024
SHAPE = '{"revision": 3}; without one, the revision before the live one'


class Live:
    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/v1/functions/{name}/live", self.move, "Put another revision in service, at once."),
                body="application/json",
                errors=("400", "404", "409", "413", "503"),
            ),
        )

    async def move(self, request: Request) -> Response:
        name = known_name(request.path_params["name"])
        wanted = _wanted(await bodies.read(request, BODY_MAX_BYTES))
        live, revisions = await self._store.revisions(caller.tenant(request), name)
        if not live:
            raise self._catalog.missing(caller.tenant(request), name)
        chosen = _choose(name, live, revisions, wanted)
        self._check_routes(chosen)
        if not await self._store.set_live(caller.tenant(request), name, live, chosen.number):
            raise Conflict(f"{name} was deployed, moved or removed at the same time; look at it and try again")
        await self._catalog.refresh(caller.tenant(request), name)
        return JSONResponse({"function": name, "revision": chosen.number, "before": live})

    def _check_routes(self, revision: Revision) -> None:
        """What it declares may have become another function's since."""
        for text in revision.routes:
            owner = self._catalog.routes_of(revision.tenant).owner(routes.parse(text))
            if owner is not None and owner != (revision.tenant, revision.function):
                theirs = owner[1]
                raise Conflict(
                    f"revision {revision.number} declares route {text!r}, which belongs to {theirs!r} now; remove it "
                    "there first"
                )


def _wanted(body: bytes) -> int | None:
    document: Any = bodies.parse(body, SHAPE) if body.strip() else {}
    if not isinstance(document, dict) or document.keys() - {"revision"}:
        raise InvalidRequest(f"the body must be {SHAPE}")
    number = document.get("revision")
    if number is not None and (type(number) is not int or number < 1):
        raise InvalidRequest(f"revision = {str(number)[:40]}; allowed: a whole number from 1")
    return number


def _choose(name: str, live: int, revisions: tuple[Revision, ...], wanted: int | None) -> Revision:
    """`revisions` come newest first."""
    if wanted is None:
        before = next((revision for revision in revisions if revision.number < live), None)
        if before is None:
            raise Conflict(f"{name} has no revision before {live}, which is live")
        return before
    for revision in revisions:
        if revision.number == wanted:
            return revision
    there = ", ".join(str(revision.number) for revision in revisions[:20])
    if wanted < max(live, revisions[0].number):
        raise NotFound(f"revision {wanted} of {name!r} is not kept any more (jiffy prune); there are {there}")
    raise NotFound(f"function {name!r} has no revision {wanted}; there are {there}")
