"""Budgets and their counters in Redis. What is kept there: keys.BUDGETS, keys.spending; each change is one step.

It speaks through the connections of gateway/store.py, whose `client` it is given. Errors leave as Unavailable.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any, NamedTuple

from gateway.budgets.budget import Budget
from gateway.store import translated
from jiffy.contract import keys, spending, wire
from jiffy.contract.messages import Delivery
from jiffy.contract.spending import Hold


class Spent(NamedTuple):
    """What stands in one hash of counters."""

    spent: int
    held: int  # by calls that run or wait


class Asked(NamedTuple):
    """A call that wants to be let in, and the limit of each of its counters (None: none)."""

    hold: Hold
    limits: tuple[int | None, ...]


class BudgetStore:
    """`client` is gateway.store.Store's."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._reserve = client.register_script(_text("reserve"))
        self._tell = client.register_script(_text("tell"))

    # --- budgets --------------------------------------------------------------------------------------------

    async def all(self) -> tuple[Budget, ...]:
        """Every tenant's, by name; what a newer release wrote and this one can't read is left out."""
        with translated():
            found: dict[bytes, bytes] = await self._redis.hgetall(keys.BUDGETS)
        budgets = []
        for field in sorted(found):
            try:
                budgets.append(Budget(**json.loads(found[field])))
            except (ValueError, TypeError):
                continue
        return tuple(budgets)

    async def put(self, budget: Budget) -> None:
        with translated():
            await self._redis.hset(keys.BUDGETS, _field(budget.tenant, budget.name), json.dumps(asdict(budget)))

    async def remove(self, tenant: str, name: str) -> bool:
        """False when there is none."""
        with translated():
            return bool(await self._redis.hdel(keys.BUDGETS, _field(tenant, name)))

    # --- counters -------------------------------------------------------------------------------------------

    async def spent(self, counters: Sequence[str], now_ms: int) -> list[Spent]:
        pipe = self._redis.pipeline(transaction=False)
        for key in counters:
            pipe.hgetall(key)
        with translated():
            found = await pipe.execute() if counters else []
        return [_spent(fields, spending.slot_of(now_ms)) for fields in found]

    async def begin(self, counters: str) -> None:
        """Count from nothing: whatever was spent before comes from the ledger."""
        with translated():
            await self._redis.hdel(counters, spending.SPENT)

    async def seed(self, counters: str, amount: int) -> None:
        """What was spent before anything was counted."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(counters, spending.SEED, amount)
        pipe.expire(counters, spending.KEEP_S)
        with translated():
            await pipe.execute()

    async def reserve(self, batch: Sequence[Asked], now_ms: int) -> list[int]:
        """Hold room for these calls: what scripts/reserve.lua returns of each."""
        names: list[str] = []
        values: list[str | int] = [spending.slot_of(now_ms), spending.KEEP_S]
        for hold, most in batch:
            names += hold.keys
            values += (len(hold.keys), hold.worst, spending.held(hold.slot))
            values += ("" if limit is None else limit for limit in most)
        with translated():
            return list(await self._reserve(keys=names, args=values))

    async def release(self, hold: Hold) -> None:
        """Give back what was held for a call that is not run."""
        pipe = self._redis.pipeline(transaction=True)
        for key in hold.keys:
            pipe.hincrby(key, spending.held(hold.slot), -hold.worst)
        with translated():
            await pipe.execute()

    async def tell(self, counters: str, field: str, now_ms: int, delivery: Delivery | None, tenant: str) -> bool:
        """False when it was told before."""
        names = [counters, keys.DELIVERIES, keys.DELIVERY_ITEMS, keys.tally(tenant)]
        told = (delivery.id, wire.pack(delivery)) if delivery else ("", b"")
        with translated():
            return bool(await self._tell(keys=names, args=[field, *told, now_ms, spending.KEEP_S]))


def _spent(fields: dict[bytes, bytes], now: int) -> Spent:
    held = 0
    for field, value in fields.items():
        kind, _, slot = field.partition(b":")
        if kind == b"held" and int(slot) >= now:
            held += max(0, int(value))
    return Spent(int(fields.get(b"spent", 0)) + int(fields.get(b"seed", 0)), held)


def _field(tenant: str, name: str) -> str:
    return f"{tenant}:{name}"


def _text(name: str) -> bytes:
    return resources.files(__package__).joinpath(f"scripts/{name}.lua").read_bytes()
