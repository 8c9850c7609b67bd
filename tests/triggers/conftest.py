"""Gateways' triggers over a real queue, on a clock that a test moves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.budgets.guard import Guard
from gateway.budgets.store import BudgetStore
from gateway.catalog import Catalog
from gateway.durable.acceptance import Bounds
from gateway.ledger.bookfile import shipped
from gateway.placement import Host, Placement
from gateway.store import Store
from gateway.triggers.calls import Calls
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.scheduler import Scheduler
from gateway.triggers.store import TriggerStore
from jiffy.contract import keys, triggers, wire
from jiffy.contract.messages import Call
from tests.gateway.fake_invoker import publish
from tests.triggers.brokers import amazon_server

INVOKER = "inv-1"


@dataclass
class Clock:
    now_ms: int = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)

    def __call__(self) -> int:
        return self.now_ms

    def forward(self, **time: float) -> None:
        from datetime import timedelta

        self.now_ms += int(timedelta(**time).total_seconds() * 1000)


@dataclass
class Lab:
    """One Redis; as many gateways' schedulers as a test wants."""

    url: str
    redis: Any
    clock: Clock
    stack: contextlib.AsyncExitStack

    async def gateway(self, bounds: Bounds = Bounds()) -> tuple[Scheduler, Catalog]:  # noqa: B008
        store, kept, placement = Store(self.url), TriggerStore(self.url), Placement()
        self.stack.push_async_callback(store.close)
        self.stack.push_async_callback(kept.close)
        placement.update((Host(INVOKER, 1000, 0, True),))
        catalog = Catalog(store)
        guard = Guard(BudgetStore(store.client), lambda: shipped().at(0), self.clock)
        await guard.look()
        scheduler = Scheduler(catalog, kept, Calls(placement, guard), TriggerMetrics(), self.clock, bounds)
        catalog.on_change.append(scheduler.changed)
        await catalog.resync()
        return scheduler, catalog

    async def deploy(self, *tables: dict[str, Any], number: int = 1, name: str = "report", **revision: Any) -> None:
        await publish(self.url, name, number, spec={"triggers": list(triggers.check(list(tables)))}, **revision)

    async def calls(self) -> list[Call]:
        """The calls that were queued since last asked."""
        entries = await self.redis.xrange(keys.calls(INVOKER))
        if entries:
            await self.redis.xdel(keys.calls(INVOKER), *(entry for entry, _ in entries))
        return [wire.unpack(Call, fields[b"c"]) for _, fields in entries]


@pytest.fixture
async def lab(redis_url: str) -> AsyncIterator[Lab]:
    async with Redis.from_url(redis_url, protocol=2) as redis, contextlib.AsyncExitStack() as stack:
        yield Lab(redis_url, redis, Clock(), stack)


@pytest.fixture(scope="session")
def amazon_url() -> Iterator[str]:
    with amazon_server() as url:
        yield url
