"""/v1/functions: deploy, list, show, remove. A deploy queues a build; routes/builds.py tells how it goes."""

from __future__ import annotations

import re
import zlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from uuid_utils import uuid7

from gateway.admission import known_name
from gateway.catalog import Catalog
from gateway.openapi import Endpoint
from gateway.pulse import Pulse
from gateway.routes import bodies, caller
from gateway.store import Store
from gateway.triggers.sources.doors import Doors
from gateway.triggers.trigger import public
from jiffy.contract import limits, spec
from jiffy.contract.access import DEFAULT_TENANT, Role
from jiffy.contract.errors import Conflict, InvalidRequest, NotFound, SpecError, Unavailable
from jiffy.contract.messages import BuildEvent, BuildRequest, Revision

BODY_MAX_BYTES = 64 * 1024  # a spec with all of its environment and routes fits several times
CYCLONEDX = "application/vnd.cyclonedx+json"
HIDDEN = "(hidden)"
DESTINATIONS = ("on_success", "on_failure")
_SOURCE = re.compile(r"sha256:[0-9a-f]{64}")


class Functions:
    def __init__(self, store: Store, catalog: Catalog, pulse: Pulse, doors: Doors) -> None:
        self._store = store
        self._catalog = catalog
        self._pulse = pulse
        self._doors = doors

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/functions/{name}"
        return (
            Endpoint("GET", "/v1/functions", self.all, "All functions, with their live revisions."),
            Endpoint("GET", path, self.show, "One function: its revisions, layers and spec.", errors=("404",)),
            Endpoint(
                *("GET", f"{path}/sbom", self.sbom, "A revision's bill of materials: CycloneDX."),
                query={"revision": "Its number; default: the one in service."},
                answer=CYCLONEDX,
                errors=("400", "404"),
            ),
            Endpoint(
                *("PUT", path, self.deploy, "Build a revision from an uploaded source and put it in service."),
                body="application/json",
                status="202",
                errors=("400", "409", "413", "503"),
            ),
            Endpoint(
                *("DELETE", path, self.remove, "Remove a function, its routes, revisions and logs."),
                status="204",
                answer="",
                errors=("404", "503"),
            ),
        )

    async def all(self, request: Request) -> Response:
        return JSONResponse(
            {"functions": [_summary(request, one.revision) for one in self._catalog.all(caller.tenant(request))]}
        )

    async def show(self, request: Request) -> Response:
        name = known_name(request.path_params["name"])
        live, revisions = await self._store.revisions(caller.tenant(request), name)
        current = next((r for r in revisions if r.number == live), None)
        if current is None:
            raise self._catalog.missing(caller.tenant(request), name)
        env = dict(current.env)
        if Role.DEPLOY not in caller.of(request).rights:  # values may be secrets of the function
            env = dict.fromkeys(env, HIDDEN)
        shown = {k: [public(t) for t in v] if k == "triggers" else v for k, v in current.spec.items()}
        return JSONResponse(
            _summary(request, current)
            | {
                "env": env,
                "spec": shown | {"env": env} if "env" in shown else shown,
                "layers": _layers(current),
                "revisions": [_revision(revision, revision.number == live) for revision in revisions],
            }
        )

    async def sbom(self, request: Request) -> Response:
        name = known_name(request.path_params["name"])
        asked = request.query_params.get("revision", "")
        if asked and not re.fullmatch("[1-9][0-9]{0,9}", asked):
            raise InvalidRequest(f"revision = {asked[:40]}; allowed: a whole number from 1")
        live, revisions = await self._store.revisions(caller.tenant(request), name)
        if not live:
            raise self._catalog.missing(caller.tenant(request), name)
        number = int(asked or live)
        if number not in {revision.number for revision in revisions}:
            raise NotFound(f"function {name!r} has no revision {number}")
        found = await self._store.sbom(caller.tenant(request), name, number)
        if found is None:
            raise NotFound(
                f"revision {number} of {name} was built before bills of materials were kept; deploy it again"
            )
        return Response(zlib.decompress(found), media_type=CYCLONEDX)

    async def deploy(self, request: Request) -> Response:
        name = spec.check_name(request.path_params["name"])
        document = await _document(request)
        declared = spec.parse_function(name, document.get("spec"), "spec")
        if lacks := self._doors.missing(declared.triggers):
            raise SpecError(lacks)
        source = document.get("source")
        if not isinstance(source, str) or not _SOURCE.fullmatch(source):
            raise InvalidRequest(f'source = {str(source)[:80]!r}; allowed: "sha256:…" of an uploaded archive')
        locked = document.get("locked", False)
        if not isinstance(locked, bool):
            raise InvalidRequest("locked must be true or false")
        if not self._pulse.builders():
            raise Unavailable("no builder is alive", retry_after_s=limits.SILENT_AFTER_S)
        if not await self._store.has_source(caller.tenant(request), source):
            raise Conflict(f"there is no source {source}; upload it first: PUT /v1/sources/{source[7:]}")
        now_ms = self._store.now_ms()
        build = BuildRequest(str(uuid7()), caller.tenant(request), name, declared.to_dict(), source, now_ms, locked)
        queued = BuildEvent("step", "queued", "queue", now_ms, 0, False, 0)
        await self._store.request_build(build, queued)
        return JSONResponse({"build": build.build}, 202, headers={"location": f"/v1/builds/{build.build}/events"})

    async def remove(self, request: Request) -> Response:
        name = known_name(request.path_params["name"])
        if not await self._store.remove(caller.tenant(request), name):
            raise self._catalog.missing(caller.tenant(request), name)
        await self._catalog.refresh(caller.tenant(request), name)
        return Response(status_code=204)


async def _document(request: Request) -> dict[str, Any]:
    document = bodies.parse(await bodies.read(request, BODY_MAX_BYTES), '{"spec": {…}, "source": "sha256:…"}')
    if not isinstance(document, dict):
        raise InvalidRequest('the body must be an object, {"spec": {…}, "source": "sha256:…"}')
    for key in document:
        if key not in ("spec", "source", "locked"):
            raise InvalidRequest(f"unknown key {key[:80]!r}; allowed: spec, source, locked")
    return document


def _summary(request: Request, revision: Revision) -> dict[str, Any]:
    return {
        "name": revision.function,
        "revision": revision.number,
        "url": f"{request.url.scheme}://{request.url.netloc}{_path(revision)}",
        "routes": list(revision.routes),
        "runtime": revision.runtime,
        "handler": revision.handler,
        "memory_mb": revision.memory_mb,
        "timeout_s": revision.timeout_ms / 1000,
        "max_instances": revision.max_instances,
        "network": revision.network,
        "public": revision.public,
        "description": str(revision.spec.get("description", "")),
        "destinations": sorted({str(d) for key in DESTINATIONS if (d := revision.spec.get(key))}),
        "size_bytes": sum(layer.size_bytes for layer in revision.layers),
        "created_ms": revision.created_ms,
    }


def _path(revision: Revision) -> str:
    """Where it is called, whoever calls."""
    path = f"/function/{revision.function}"
    return path if revision.tenant == DEFAULT_TENANT else f"/t/{revision.tenant}{path}"


def _revision(revision: Revision, live: bool) -> dict[str, Any]:
    return {
        "revision": revision.number,
        "live": live,
        "digest": revision.digest,
        "image": revision.image,
        "runtime": revision.runtime,
        "created_ms": revision.created_ms,
        "layers": _layers(revision),
    }


def _layers(revision: Revision) -> list[dict[str, Any]]:
    return [layer._asdict() for layer in revision.layers]
