"""/healthz, /v1/status, /metrics, /openapi.json: how the platform is, for machines and for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway import openapi
from gateway.catalog import Catalog
from gateway.dispatch import Dispatcher
from gateway.metrics import Metrics, invoker_lines
from gateway.openapi import Endpoint
from gateway.placement import ALL_DRAIN
from gateway.pulse import Pulse
from gateway.routes import caller
from gateway.store import Store
from gateway.triggers.metrics import TriggerMetrics
from jiffy.contract import limits
from jiffy.contract.access import Role
from jiffy.contract.errors import JiffyError, Unavailable


class DurableMetrics(Protocol):
    """Where asynchronous work is counted: durable.room.DurableRoom."""

    async def metrics(self) -> Sequence[str]: ...


class Health:
    def __init__(
        self,
        store: Store,
        pulse: Pulse,
        catalog: Catalog,
        dispatcher: Dispatcher,
        metrics: Metrics,
        triggers: TriggerMetrics,
        durable: DurableMetrics,
        version: str,
    ) -> None:
        self._store = store
        self._pulse = pulse
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._triggers = triggers
        self._durable = durable
        self._version = version
        self._document: dict[str, Any] = {}

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("GET", "/healthz", self.healthz, "Can functions be called and built?", errors=("503",), open=True),
            Endpoint("GET", "/v1/status", self.status, "Invokers, builders and what they are doing."),
            Endpoint("GET", "/metrics", self.metrics, "Counters for Prometheus.", answer="text/plain", role=Role.ADMIN),
            Endpoint("GET", "/openapi.json", self.openapi, "This description.", open=True),
        )

    def describe(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Say once what /openapi.json tells: all endpoints there are."""
        self._document = openapi.document(endpoints, self._version)

    async def healthz(self, request: Request) -> Response:
        try:
            await self._store.ping()
        except Unavailable as exc:
            raise Unavailable(exc.message, retry_after_s=limits.SILENT_AFTER_S) from exc
        missing = self._pulse.missing()
        if missing:
            drains = self._pulse.draining()
            dead = " and ".join(f"no {what}" for what in missing if not (drains and what == "invoker"))
            texts = [*([f"{dead} is alive"] if dead else []), *([ALL_DRAIN] if drains else [])]
            raise Unavailable("; ".join(texts), retry_after_s=limits.SILENT_AFTER_S)
        return JSONResponse({"status": "ok"})

    async def status(self, request: Request) -> Response:
        """Hosts, and what runs there, are the admin's to see."""
        asking, missing = caller.of(request), self._pulse.missing()
        health = {"version": self._version, "healthy": not missing, "missing": missing}
        if not asking.admin:
            own = len(self._catalog.all(asking.tenant))
            return JSONResponse(health | {"invokers": [], "builders": [], "functions": own})
        return JSONResponse(
            health
            | {
                "gateway": {"name": self._dispatcher.gateway, "in_flight": len(self._dispatcher)},
                "invokers": [
                    beat._asdict() | {"functions": [function._asdict() for function in beat.functions]}
                    for beat in self._pulse.invokers()
                ],
                "builders": [beat._asdict() for beat in self._pulse.builders()],
                "functions": len(self._catalog),
            }
        )

    async def metrics(self, request: Request) -> Response:
        beats = self._pulse.invokers()
        invokers = [beat.invoker for beat in beats]
        try:
            queued = await self._store.queued(invokers)
        except JiffyError:
            queued = 0  # counters are of use above all when Redis is not
        text = self._metrics.text(
            in_flight=len(self._dispatcher), queued=queued, invokers=len(invokers), functions=len(self._catalog)
        )
        durable = await self._durable.metrics()
        text += "".join(f"{line}\n" for line in (*self._triggers.lines(), *durable, *invoker_lines(beats)))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._document)
