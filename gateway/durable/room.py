"""All of the room of asynchronous calls, wired: what __main__ makes one of, and what the others need of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from gateway.budgets.guard import Guard
from gateway.catalog import Catalog
from gateway.dispatch import Dispatcher
from gateway.durable import metrics
from gateway.durable.acceptance import Acceptance
from gateway.durable.audit_store import AuditStore
from gateway.durable.callbacks import HttpTarget, Network
from gateway.durable.cancellation import Cancellation
from gateway.durable.dead_letters import DeadLetters
from gateway.durable.deliveries import Deliveries, FunctionTarget, Target
from gateway.durable.delivery_store import DeliveryStore
from gateway.durable.later import Later
from gateway.durable.once import Once
from gateway.durable.orphans import Orphans
from gateway.durable.store import DurableStore
from gateway.durable.takeover import Takeover
from gateway.durable.takeover_store import TakeoverStore
from gateway.ledger import Ledger
from gateway.loops import Loop
from gateway.openapi import Endpoint
from gateway.placement import Placement
from gateway.routes.audit import Audits
from gateway.routes.dlq import Dlq
from gateway.routes.invocations import Invocations
from gateway.store import Store
from jiffy.contract.errors import JiffyError


class DurableRoom:
    """See the module. Calls come in by `acceptance`, those with an idempotency key by `once`."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        placement: Placement,
        dispatcher: Dispatcher,
        guard: Guard,
        callbacks_to: Sequence[Network],
    ) -> None:
        self._queue, self._catalog, self._guard = store, catalog, guard
        self._store, self._told_of = DurableStore(store.client, store.replicas), DeliveryStore(store.client)
        self.acceptance = Acceptance(self._store, placement, guard, store.now_ms)
        self.once = Once(self.acceptance, dispatcher, placement, store, guard)
        self.later = Later(self._store, placement, guard, store.now_ms)
        self.callbacks = HttpTarget(self._told_of, store.now_ms, callbacks_to)
        self._orphans = Orphans(self._store, dispatcher.gateway)
        self._takeover = Takeover(TakeoverStore(store.client), placement, dispatcher.abandon)
        functions = FunctionTarget(catalog, self.acceptance)
        targets: dict[str, Target] = {"function": functions, "http": self.callbacks, "https": self.callbacks}
        self._deliveries = Deliveries(self._told_of, targets, store.now_ms)

    def endpoints(self, ledger: Ledger) -> tuple[Endpoint, ...]:
        dead_letters = DeadLetters(self._store, self._told_of, self._catalog, self._queue.now_ms)
        cancellation = Cancellation(self._queue, self._store, self._guard)
        return (
            *Invocations(self._queue, ledger, cancellation, self._told_of, self._store).endpoints(),
            *Dlq(dead_letters, self._told_of).endpoints(),
            *Audits(AuditStore(self._queue.client), ledger).endpoints(),
        )

    async def metrics(self) -> Sequence[str]:
        """Lines for /metrics; none while Redis does not answer."""
        try:
            return list(metrics.lines(await self._store.work()))
        except JiffyError:
            return []

    def loops(self) -> tuple[Loop, ...]:
        watches = self.later.watch, self._takeover.watch, self._orphans.watch, self._deliveries.watch
        return *self.acceptance.loops(), *watches

    async def close(self) -> None:
        """Once the loops have ended."""
        await self.callbacks.close()
        with contextlib.suppress(JiffyError):
            await self._store.close()
