"""All of the triggers' room, wired: what __main__ makes one of, and what the others need of it."""

from __future__ import annotations

import contextlib

from gateway.admission import Admission
from gateway.budgets.guard import Guard
from gateway.catalog import Catalog
from gateway.durable.acceptance import Acceptance
from gateway.loops import Loop
from gateway.openapi import Endpoint
from gateway.placement import Placement
from gateway.routes.hooks import Hooks
from gateway.routes.invoke import Invoke
from gateway.routes.topics import TopicRoutes
from gateway.routes.triggers import Triggers
from gateway.store import Store
from gateway.triggers.calls import Calls
from gateway.triggers.firing import Firing
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.queues import Queues, Where
from gateway.triggers.scheduler import Scheduler
from gateway.triggers.sources.doors import Doors
from gateway.triggers.store import TriggerStore
from gateway.triggers.topic_store import TopicStore
from gateway.triggers.topics import Topics
from jiffy.contract.errors import JiffyError


class TriggerRoom:
    """See the module. `metrics` is what /metrics tells of triggers."""

    def __init__(
        self,
        where: Where,
        store: Store,
        catalog: Catalog,
        placement: Placement,
        guard: Guard,
        invoke: Invoke,
        acceptance: Acceptance,
    ) -> None:
        self._now_ms, self._catalog, self._acceptance = store.now_ms, catalog, acceptance
        self.metrics = TriggerMetrics()
        self._store, self._topic_store = TriggerStore(where.redis_url), TopicStore(store.client, store.replicas)
        self._topics = Topics(self._topic_store, store.now_ms)
        calls = Calls(placement, guard)
        self._scheduler = Scheduler(catalog, self._store, calls, self.metrics, store.now_ms, acceptance.bounds)
        self.doors = Doors(where.redis_url, where.files)
        self.queues = Queues(
            *(catalog, self._store, invoke.call, self._topics, self.metrics, self.doors, where.gateway, store.now_ms)
        )
        catalog.on_change += [self._scheduler.changed, self.queues.changed]

    def endpoints(self, admission: Admission) -> tuple[Endpoint, ...]:
        now_ms, catalog, store = self._now_ms, self._catalog, self._store
        firing = Firing(store, self._acceptance, self.metrics, now_ms)
        return (
            *Hooks(catalog, admission, self._acceptance, store, self.metrics, now_ms).endpoints(),
            *TopicRoutes(catalog, self._topics, self._topic_store, now_ms).endpoints(),
            *Triggers(catalog, store, firing, now_ms).endpoints(),
        )

    def loops(self) -> tuple[Loop, ...]:
        return self._scheduler.watch, self.queues.watch

    async def close(self) -> None:
        """Once the loops have ended."""
        with contextlib.suppress(JiffyError):
            await self._store.close()
