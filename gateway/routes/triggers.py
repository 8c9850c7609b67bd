"""/v1/triggers: what calls functions besides requests. What triggers do: gateway/triggers/scheduler.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.admission import known_name
from gateway.catalog import Catalog, Function
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from gateway.triggers.firing import Firing
from gateway.triggers.store import TriggerStore
from gateway.triggers.trigger import SERVED, Trigger, TriggerState, declared, public
from jiffy.contract import limits
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest, NotFound
from jiffy.contract.schedules import schedule

LOG_DEFAULT = 100

log = logging.getLogger("jiffy.gateway")


class Triggers:
    def __init__(self, catalog: Catalog, store: TriggerStore, firing: Firing, now_ms: Callable[[], int]) -> None:
        self._catalog = catalog
        self._store = store
        self._firing = firing
        self._now_ms = now_ms

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/triggers/{function}/{trigger}"
        wrong = ("404", "503")
        return (
            Endpoint("GET", "/v1/triggers", self.all, "All triggers: settings, state, counters.", errors=("503",)),
            Endpoint("GET", path, self.show, "One trigger: settings, state, counters.", errors=wrong),
            Endpoint("POST", f"{path}/pause", self.pause, "Stop calling the function.", errors=wrong),
            Endpoint("POST", f"{path}/resume", self.resume, "Go on, from now.", errors=wrong),
            Endpoint(
                *("POST", f"{path}/fire", self.fire, "Call the function now, with this event or the trigger's usual."),
                role=Role.INVOKE,
                body="application/json",
                status="202",
                errors=("400", "404", "413", "503"),
            ),
            Endpoint(
                *("GET", f"{path}/logs", self.logs, "What the trigger did, oldest first."),
                query={"limit": f"how many of the last entries: {LOG_DEFAULT}, at most {limits.TRIGGER_LOG_MAX}"},
                errors=("400", "404", "503"),
            ),
        )

    async def all(self, request: Request) -> Response:
        found = [trigger for function in self._catalog.all(caller.tenant(request)) for trigger in declared(function)]
        states = await self._store.states([trigger.id for trigger in found])
        return JSONResponse({"triggers": [self._document(t, s) for t, s in zip(found, states, strict=True)]})

    async def show(self, request: Request) -> Response:
        return JSONResponse(await self._now(self._find(request)[1]))

    async def pause(self, request: Request) -> Response:
        _, trigger = self._find(request)
        await self._store.pause(trigger.id, self._now_ms())
        return JSONResponse(await self._now(trigger))

    async def resume(self, request: Request) -> Response:
        _, trigger = self._find(request)
        await self._store.resume(trigger.id, self._now_ms())
        return JSONResponse(await self._now(trigger))

    async def fire(self, request: Request) -> Response:
        function, trigger = self._find(request)
        invocation = await self._firing.fire(function, trigger, await bodies.read(request, limits.PAYLOAD_MAX_BYTES))
        return JSONResponse({"invocation": invocation}, 202, headers={"location": f"/v1/invocations/{invocation}"})

    async def logs(self, request: Request) -> Response:
        text = request.query_params.get("limit", str(LOG_DEFAULT))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= limits.TRIGGER_LOG_MAX):
            raise InvalidRequest(f"limit = {text[:40]!r}; allowed: a whole number from 1 to {limits.TRIGGER_LOG_MAX}")
        _, trigger = self._find(request)
        lines = await self._store.log(trigger.id, int(text))
        return JSONResponse({"entries": [line._asdict() for line in lines]})

    def _find(self, request: Request) -> tuple[Function, Trigger]:
        name, wanted = known_name(request.path_params["function"]), request.path_params["trigger"]
        function = self._catalog.get(caller.tenant(request), name)
        if function is None:
            raise self._catalog.missing(caller.tenant(request), name)
        found = {trigger.id.name: trigger for trigger in declared(function)}
        if wanted not in found:
            has = f"it has {', '.join(found)}" if found else "it declares none"
            raise NotFound(f"function {name!r} has no trigger {wanted[:80]!r}: {has}")
        return function, found[wanted]

    async def _now(self, trigger: Trigger) -> dict[str, Any]:
        (state,) = await self._store.states([trigger.id])
        return self._document(trigger, state)

    def _document(self, trigger: Trigger, state: TriggerState) -> dict[str, Any]:
        document: dict[str, Any] = {
            "function": trigger.id.function,
            "name": trigger.id.name,
            "type": trigger.type,
            "options": public(trigger.options),
            "state": "paused" if state.paused else "active",
            "last": _time(state.last_ms),
            "fired": state.fired,
            "skipped": state.skipped,
            "failed": state.failed,
        }
        if trigger.type in SERVED:
            document |= {"dead": state.dead, "waiting": state.lag, "error": state.error}
            if state.error and not state.paused:
                document["state"] = "failing"
        if trigger.type == "schedule":
            now_ms = self._now_ms()
            try:
                next_ms = _next_ms(trigger, state, now_ms)
            except Exception as exc:  # another release stored it: that must not hide all others
                log.warning("the schedule %s can't be read: %r", trigger.id, exc)
                next_ms, document["state"] = None, "failing"
                document["error"] = "its settings can't be read; deploy the function again"
            document["next"] = _time(next_ms) if next_ms and not state.paused else None
        return document


def _next_ms(trigger: Trigger, state: TriggerState, now_ms: int) -> int | None:
    planned = schedule(trigger.options, state.since_ms or now_ms)
    tick_ms = planned.due(max(state.tick_ms, state.since_ms) or now_ms, now_ms)
    return tick_ms and tick_ms + planned.delay_ms(str(trigger.id), tick_ms)


def _time(ms: int) -> str | None:
    return (
        datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if ms else None
    )
