"""/v1/invokers/{invoker}/drain: have a host take no further calls, or take them again."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.openapi import Endpoint
from gateway.pulse import Pulse
from gateway.store import Store
from jiffy.contract.access import Role
from jiffy.contract.errors import NotFound


class Hosts:
    def __init__(self, store: Store, pulse: Pulse) -> None:
        self._store = store
        self._pulse = pulse

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/invokers/{invoker}/drain"
        return (
            Endpoint(
                "POST",
                path,
                self.drain,
                "Have a host take no further calls.",
                status="202",
                errors=("404",),
                role=Role.ADMIN,
            ),
            Endpoint(
                "DELETE",
                path,
                self.undrain,
                "Have it take calls again.",
                status="202",
                errors=("404",),
                role=Role.ADMIN,
            ),
        )

    async def drain(self, request: Request) -> Response:
        return await self._order(request.path_params["invoker"], drain=True)

    async def undrain(self, request: Request) -> Response:
        return await self._order(request.path_params["invoker"], drain=False)

    async def _order(self, invoker: str, *, drain: bool) -> Response:
        """The host hears it with its next heartbeat; what it then does can be seen in /v1/status."""
        if all(beat.invoker != invoker for beat in self._pulse.invokers()):
            raise NotFound(f"there is no live invoker {invoker[:80]!r}; `jiffy status` lists them")
        await self._store.order_drain(invoker, drain=drain)
        return JSONResponse({"invoker": invoker, "drain": drain}, status_code=202)
