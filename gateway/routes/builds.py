"""/v1/builds/{id}/events: how a build goes, one JSON object a line, until it is done or has failed."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.following import Following
from gateway.openapi import Endpoint
from gateway.routes import caller
from gateway.store import Store
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest, NotFound, Unavailable
from jiffy.contract.messages import BuildEvent

_BUILD = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_POSITION = re.compile(r"\d{1,15}(?:-\d{1,10})?")
LAST = ("done", "failed")


class Builds:
    def __init__(self, store: Store, following: Following) -> None:
        self._store = store
        self._following = following

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/v1/builds/{build}/events", self.events, "A build's progress, as it happens."),
                query={"after": "id of the last event that was seen; the answer goes on after it"},
                answer="application/x-ndjson",
                errors=("400", "404", "503"),
                role=Role.DEPLOY,
            ),
        )

    async def events(self, request: Request) -> Response:
        build, after = request.path_params["build"], request.query_params.get("after", "0")
        tenant = caller.tenant(request)
        if not _POSITION.fullmatch(after):
            raise InvalidRequest(f'after = {after[:40]!r}; allowed: the "id" of an event')
        if not _BUILD.fullmatch(build) or await self._store.last_build_event(tenant, build) is None:
            raise NotFound(f"there is no build {build[:80]!r}; its events are kept for an hour")
        self._following.admit()
        return StreamingResponse(self._lines(tenant, build, after), media_type="application/x-ndjson")

    async def _lines(self, tenant: str, build: str, after: str) -> AsyncIterator[bytes]:
        async def read(after: str, wait_ms: int) -> list[tuple[str, BuildEvent]]:
            return await self._store.build_events(tenant, build, after, wait_ms)

        async for entry in self._following.follow(read, after):
            if entry is None:
                if await self._over(tenant, build):
                    return
                continue
            position, event = entry
            yield json.dumps({"id": position, **event._asdict()}, ensure_ascii=False).encode() + b"\n"
            if event.kind in LAST:
                return

    async def _over(self, tenant: str, build: str) -> bool:
        """Nothing came: is that because nothing more will?"""
        try:
            last = await self._store.last_build_event(tenant, build)
        except Unavailable:
            return False
        return last is None or last.kind in LAST
