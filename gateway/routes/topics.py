"""/v1/topics: publish CloudEvents, see and settle topics. What a topic is: gateway/triggers/topics.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.admission import known_name
from gateway.catalog import Catalog
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from gateway.triggers import cloudevent
from gateway.triggers.sources.topic import group_of
from gateway.triggers.topic_store import TopicStore
from gateway.triggers.topics import Topics
from gateway.triggers.trigger import declared
from jiffy.contract import limits, topics
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest, NotFound
from jiffy.contract.schedules import END_MS

EVENTS_DEFAULT, EVENTS_MAX = 20, 1000
SETTINGS_MAX_BYTES = 256 * 1024


class TopicRoutes:
    def __init__(self, catalog: Catalog, own: Topics, store: TopicStore, now_ms: Callable[[], int]) -> None:
        self._catalog = catalog
        self._topics = own
        self._store = store
        self._now_ms = now_ms

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/topics/{topic}"
        return (
            Endpoint("GET", "/v1/topics", self.all, "All topics, with their settings.", errors=("503",)),
            Endpoint("GET", path, self.show, "What a topic holds, and who reads it.", errors=("400", "404", "503")),
            Endpoint(
                *("PUT", path, self.set, 'Settle a topic: {"keep_s": seconds, "schema": JSON Schema of the data}.'),
                body="application/json",
                errors=("400", "413", "503"),
            ),
            Endpoint(
                *("DELETE", path, self.remove, "Remove a topic and its events."),
                status="204",
                answer="",
                errors=("400", "404", "503"),
            ),
            Endpoint(
                *("POST", f"{path}/events", self.publish, "Publish CloudEvents 1.0: binary, structured or a batch."),
                role=Role.INVOKE,
                body="*/*",
                status="202",
                errors=("400", "409", "413", "503"),
            ),
            Endpoint(
                *("GET", f"{path}/events", self.events, "Events that a topic keeps, oldest first."),
                query={"since": "a time such as 2027-01-31T09:00:00Z", "limit": f"{EVENTS_DEFAULT} by default"},
                errors=("400", "404", "503"),
            ),
            Endpoint(
                *("POST", "/v1/triggers/{function}/{trigger}/replay", self.replay, 'Read again: {"since": time}.'),
                body="application/json",
                errors=("400", "404", "503"),
            ),
        )

    async def publish(self, request: Request) -> Response:
        name = _name(request)
        body = await bodies.read(request, limits.PAYLOAD_MAX_BYTES)
        published = await self._topics.publish(caller.tenant(request), name, cloudevent.read(request.headers, body))
        return JSONResponse({"topic": name, "ids": list(published.ids)}, 202)

    async def all(self, request: Request) -> Response:
        found = await self._store.settings(caller.tenant(request))
        return JSONResponse({"topics": [{"topic": name} | _settings(one) for name, one in found.items()]})

    async def show(self, request: Request) -> Response:
        name, settings = await self._find(request)
        state = await self._store.state(caller.tenant(request), name)
        return JSONResponse(
            {
                "topic": name,
                **_settings(settings),
                "events": state.events,
                "first": _time(state.first_ms),
                "last": _time(state.last_ms),
                "subscriptions": list(state.subscriptions),
            }
        )

    async def set(self, request: Request) -> Response:
        name = _name(request)
        document = bodies.parse(await bodies.read(request, SETTINGS_MAX_BYTES), '{"keep_s": 3600, "schema": {…}}')
        if not isinstance(document, dict) or set(document) - {"keep_s", "schema"}:
            raise InvalidRequest('the body must be an object of "keep_s" and "schema"')
        keep_s = document.get("keep_s", limits.TOPIC_KEEP_DEFAULT_S)
        if type(keep_s) is not int or not 1 <= keep_s <= limits.TOPIC_KEEP_MAX_S:
            raise InvalidRequest(f"keep_s = {keep_s!r:.40}; allowed: 1 to {limits.TOPIC_KEEP_MAX_S} seconds")
        await self._topics.set(caller.tenant(request), name, keep_s, document.get("schema"))
        return await self.show(request)

    async def remove(self, request: Request) -> Response:
        name = _name(request)
        if not await self._store.remove(caller.tenant(request), name):
            raise NotFound(f"there is no topic {name!r}")
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        name, _ = await self._find(request)
        text = request.query_params.get("limit", str(EVENTS_DEFAULT))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= EVENTS_MAX):
            raise InvalidRequest(f"limit = {text[:40]!r}; allowed: a whole number from 1 to {EVENTS_MAX}")
        since = request.query_params.get("since")
        found = await self._store.events(caller.tenant(request), name, _moment(since) if since else 0, int(text))
        return JSONResponse({"events": [{"id": entry, "event": json.loads(event)} for entry, event in found]})

    async def replay(self, request: Request) -> Response:
        function, wanted = known_name(request.path_params["function"]), request.path_params["trigger"]
        found = {
            one.id.name: one
            for one in declared(self._catalog.get(caller.tenant(request), function))
            if one.type == "topic"
        }
        if wanted not in found:
            raise NotFound(f"function {function!r} has no topic trigger {wanted[:80]!r}")
        document = bodies.parse(await bodies.read(request, SETTINGS_MAX_BYTES), '{"since": "2027-01-31T09:00:00Z"}')
        if not isinstance(document, dict) or list(document) != ["since"]:
            raise InvalidRequest('the body must be {"since": "2027-01-31T09:00:00Z"}')
        since_ms, pattern = _moment(document["since"]), found[wanted].options["topic"]
        tenant = caller.tenant(request)
        names = [name for name in await self._store.settings(tenant) if topics.matches(pattern, name)]
        await self._store.rewind(tenant, names, group_of(function, wanted), since_ms)
        return JSONResponse({"topics": names, "since": _time(since_ms)})

    async def _find(self, request: Request) -> tuple[str, dict[str, Any]]:
        name = _name(request)
        found = await self._store.settings(caller.tenant(request))
        if name not in found:
            raise NotFound(f"there is no topic {name!r}; publishing to it makes one")
        return name, found[name]


def _name(request: Request) -> str:
    try:
        return topics.check_name(request.path_params["topic"])
    except ValueError as exc:
        raise InvalidRequest(f"topic = {request.path_params['topic'][:80]!r}; allowed: {exc}") from exc


def _moment(text: Any) -> int:
    try:
        time = datetime.fromisoformat(text)
        ms = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
        if not 0 <= ms < END_MS:
            raise ValueError
        return ms
    except (ValueError, TypeError, OverflowError) as exc:
        raise InvalidRequest(f"since = {text!r:.60}; allowed: a time such as 2027-01-31T09:00:00Z") from exc


def _settings(one: dict[str, Any]) -> dict[str, Any]:
    return {"keep_s": one.get("keep_s", limits.TOPIC_KEEP_DEFAULT_S), "schema": one.get("schema")}


def _time(ms: int) -> str | None:
    if not ms:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
