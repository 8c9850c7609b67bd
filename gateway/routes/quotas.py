"""/v1/quotas: set, see and remove how many calls may come. What a quota is: gateway/budgets/quota.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.budgets.guard import IN_FORCE_MS, Guard
from gateway.budgets.quota import Quota, parse
from gateway.budgets.store import BudgetStore
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from jiffy.contract.errors import InvalidRequest, NotFound

BODY_MAX_BYTES = 16 * 1024
QUOTAS_MAX = 1000


class Quotas:
    def __init__(self, store: BudgetStore, guard: Guard, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._guard = guard
        self._now_ms = now_ms

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/quotas/{name}"
        return (
            Endpoint("GET", "/v1/quotas", self.all, "All quotas, and how many calls run under each.", errors=("503",)),
            Endpoint("GET", path, self.show, "One quota, and how many calls run under it.", errors=("404", "503")),
            Endpoint(
                *("PUT", path, self.set, "Set a quota: rate, burst, concurrency, function or tag."),
                body="application/json",
                errors=("400", "413", "503"),
            ),
            Endpoint(*("DELETE", path, self.remove, "Remove a quota."), status="204", answer="", errors=("404", "503")),
        )

    async def all(self, request: Request) -> Response:
        return JSONResponse({"quotas": await self._documents(await self._mine(caller.tenant(request)))})

    async def show(self, request: Request) -> Response:
        return JSONResponse((await self._documents([await self._find(request)]))[0])

    async def set(self, request: Request) -> Response:
        """Answers when the quota is in force in every gateway."""
        document = bodies.parse(await bodies.read(request, BODY_MAX_BYTES), 'such as {"rate": 100}')
        quota = parse(caller.tenant(request), request.path_params["name"], document)
        mine = await self._mine(caller.tenant(request))
        if len(mine) >= QUOTAS_MAX and all(one.name != quota.name for one in mine):
            raise InvalidRequest(f"there are {QUOTAS_MAX} quotas already, as many as there may be")
        caller.check_lock(request, any(one.locked for one in mine if one.name == quota.name), "quota")
        await self._store.put(replace(quota, locked=caller.of(request).admin))
        await self._guard.look()
        await asyncio.sleep(IN_FORCE_MS / 1000)
        return JSONResponse((await self._documents([quota]))[0])

    async def remove(self, request: Request) -> Response:
        quota = await self._find(request)
        caller.check_lock(request, quota.locked, "quota")
        await self._store.remove(quota)
        await self._guard.look()
        return Response(status_code=204)

    async def _mine(self, tenant: str) -> list[Quota]:
        return [quota for quota in (await self._store.all())[1] if quota.tenant == tenant]

    async def _find(self, request: Request) -> Quota:
        name = request.path_params["name"]
        found = next((quota for quota in await self._mine(caller.tenant(request)) if quota.name == name), None)
        if found is None:
            raise NotFound(f"there is no quota {name[:80]!r}")
        return found

    async def _documents(self, quotas: list[Quota]) -> list[dict[str, Any]]:
        counters = await self._store.spent([quota.places_key for quota in quotas], self._now_ms())
        return [
            quota.document() | ({"running": found.held} if quota.concurrency else {})
            for quota, found in zip(quotas, counters, strict=True)
        ]
