"""/v1/budgets: set, see and remove what may be spent. What a budget is: gateway/budgets/budget.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.budgets.budget import Budget, amount_text, parse, period
from gateway.budgets.guard import IN_FORCE_MS, Guard, View
from gateway.budgets.seed import Seed
from gateway.budgets.store import BudgetStore
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from jiffy.contract.errors import InvalidRequest, NotFound

BODY_MAX_BYTES = 16 * 1024
BUDGETS_MAX = 1000  # each is looked at four times a second


class Budgets:
    def __init__(
        self,
        store: BudgetStore,
        guard: Guard,
        seed: Seed,
        currency: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._guard = guard
        self._seed = seed
        self._currency = currency
        self._now_ms = now_ms

    def endpoints(self) -> tuple[Endpoint, ...]:
        path = "/v1/budgets/{name}"
        return (
            Endpoint("GET", "/v1/budgets", self.all, "All budgets, and what is spent of each.", errors=("503",)),
            Endpoint("GET", path, self.show, "One budget, and what is spent of it.", errors=("404", "503")),
            Endpoint(
                *("PUT", path, self.set, "Set a budget: limit, per, function or tag, hard, warn_at, notify."),
                body="application/json",
                errors=("400", "413", "503"),
            ),
            Endpoint(
                *("DELETE", path, self.remove, "Remove a budget."), status="204", answer="", errors=("404", "503")
            ),
        )

    async def all(self, request: Request) -> Response:
        views = await self._guard.views(await self._mine(caller.tenant(request)), self._now_ms())
        return JSONResponse({"budgets": [self._document(view) for view in views]})

    async def show(self, request: Request) -> Response:
        budget = await self._find(request)
        return JSONResponse(self._document(*await self._guard.views([budget], self._now_ms())))

    async def set(self, request: Request) -> Response:
        """Answers when the budget is in force in every gateway, and knows what was spent before."""
        document = bodies.parse(await bodies.read(request, BODY_MAX_BYTES), 'such as {"limit": "5.00", "per": "day"}')
        wanted = parse(caller.tenant(request), request.path_params["name"], document, self._now_ms() + IN_FORCE_MS)
        mine = await self._mine(caller.tenant(request))
        if len(mine) >= BUDGETS_MAX and all(one.name != wanted.name for one in mine):
            raise InvalidRequest(f"there are {BUDGETS_MAX} budgets already, as many as there may be")
        caller.check_lock(request, any(one.locked for one in mine if one.name == wanted.name), "budget")
        budget = await self._counted(replace(wanted, locked=caller.of(request).admin), mine)
        await self._store.put(budget)
        await asyncio.sleep(max(0, wanted.since_ms - self._now_ms()) / 1000)
        await self._seed.take(budget)
        await self._guard.look()
        return JSONResponse(self._document(*await self._guard.views([budget], self._now_ms())))

    async def remove(self, request: Request) -> Response:
        budget = await self._find(request)
        caller.check_lock(request, budget.locked, "budget")
        await self._store.remove(budget)
        await self._guard.look()
        return Response(status_code=204)

    async def _counted(self, wanted: Budget, mine: list[Budget]) -> Budget:
        """With the time since when calls of its scope are counted: another budget's, where there is one."""
        for one in mine:
            if (one.scope, one.per) == (wanted.scope, wanted.per):
                return replace(wanted, since_ms=one.since_ms)
        await self._store.begin(wanted.counters(period(wanted.per, wanted.since_ms)))
        return wanted

    async def _mine(self, tenant: str) -> list[Budget]:
        return [budget for budget in (await self._store.all())[0] if budget.tenant == tenant]

    async def _find(self, request: Request) -> Budget:
        name = request.path_params["name"]
        mine = {budget.name: budget for budget in await self._mine(caller.tenant(request))}
        if name not in mine:
            raise NotFound(f"there is no budget {name[:80]!r}")
        return mine[name]

    def _document(self, view: View) -> dict[str, Any]:
        budget, spent = view.budget, view.spent
        return budget.document() | {
            "currency": self._currency(),
            "spent": amount_text(spent.spent),
            "held": amount_text(spent.held),
            "percent": round(100 * spent.spent / budget.limit, 1),
            "state": view.state,
            "resets": view.ends,
        }
