"""All of the budgets' room, wired: what __main__ makes one of, and what the others need of it."""

from __future__ import annotations

from gateway.budgets.guard import Guard
from gateway.budgets.seed import Seed
from gateway.budgets.store import BudgetStore
from gateway.budgets.unusual import Unusual
from gateway.budgets.warnings import Warnings
from gateway.catalog import Catalog
from gateway.ledger import Ledger
from gateway.loops import Loop
from gateway.openapi import Endpoint
from gateway.routes.budgets import Budgets
from gateway.routes.quotas import Quotas
from gateway.store import Store


class BudgetRoom:
    """See the module. Every call is put to `guard`."""

    def __init__(self, store: Store, ledger: Ledger, catalog: Catalog) -> None:
        self._store = BudgetStore(store.client)
        self._now_ms = store.now_ms
        self._ledger = ledger
        self.guard = Guard(self._store, lambda: ledger.price_list.at(store.now_ms()), store.now_ms)
        self._warnings = Warnings(self._store, self._currency, store.now_ms)
        self.guard.hear = self._warnings.hear
        self._seed = Seed(self._store, ledger, store.now_ms)
        self.unusual = Unusual(self._store, ledger, catalog.get, self._currency, store.now_ms)

    def _currency(self) -> str:
        return self._ledger.price_list.currency

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            *Budgets(self._store, self.guard, self._seed, self._currency, self._now_ms).endpoints(),
            *Quotas(self._store, self.guard, self._now_ms).endpoints(),
        )

    def loops(self) -> tuple[Loop, ...]:
        return *self.guard.loops(), self._seed.watch, self.unusual.watch

    async def close(self) -> None:
        """Once the loops have ended: refuse what still waits to be let in."""
        self.guard.give_up()
        await self._warnings.close()
