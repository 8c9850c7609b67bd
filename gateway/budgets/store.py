"""Budgets and their counters in Redis. What is kept there: keys.BUDGETS, keys.spending; each change is one step.

It speaks through the connections of gateway/store.py, whose `client` it is given. Errors leave as Unavailable.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any, NamedTuple, TypeVar

from gateway.budgets.budget import Budget
from gateway.budgets.plan import Asked
from gateway.budgets.quota import Quota
from gateway.store import translated
from jiffy.contract import keys, spending, wire
from jiffy.contract.messages import Delivery
from jiffy.contract.spending import Hold

T = TypeVar("T")


class Spent(NamedTuple):
    """What stands in one hash of counters."""

    spent: int
    held: int  # by calls that run or wait


class BudgetStore:
    """`client` is gateway.store.Store's."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._reserve = client.register_script(_text("reserve"))
        self._tell = client.register_script(_text("tell"))

    # --- budgets --------------------------------------------------------------------------------------------

    async def all(self) -> tuple[tuple[Budget, ...], tuple[Quota, ...]]:
        """Every tenant's, by name; what a newer release wrote and this one can't read is left out."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.BUDGETS)
        pipe.hgetall(keys.QUOTAS)
        with translated():
            budgets, quotas = await pipe.execute()
        return _read(Budget, budgets), _read(Quota, quotas)

    async def put(self, one: Budget | Quota) -> None:
        with translated():
            await self._redis.hset(_hash(type(one)), _field(one.tenant, one.name), json.dumps(asdict(one)))

    async def remove(self, one: Budget | Quota) -> None:
        with translated():
            await self._redis.hdel(_hash(type(one)), _field(one.tenant, one.name))

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

    async def reserve(self, batch: Sequence[Asked], now_ms: int) -> list[tuple[int, int]]:
        """Let these calls in: what scripts/reserve.lua returns of each."""
        names: list[str] = []
        values: list[str | int] = [spending.slot_of(now_ms), spending.KEEP_S]
        for hold, most, rates, places in batch:
            names += (*hold.keys, *(key for key, _, _ in rates), *hold.places)
            values += (len(hold.keys), len(rates), len(places), hold.worst, spending.held(hold.slot))
            values += ("" if limit is None else limit for limit in most)
            values += (number for _, *numbers in rates for number in numbers)
            values += places
        with translated():
            flat = await self._reserve(keys=names, args=values)
        return list(zip(flat[::2], flat[1::2], strict=True))

    async def release(self, hold: Hold) -> None:
        """Give back what was held for a call that is not run."""
        pipe = self._redis.pipeline(transaction=True)
        for key in hold.keys if hold.worst else ():
            pipe.hincrby(key, spending.held(hold.slot), -hold.worst)
        for key in hold.places:
            pipe.hincrby(key, spending.held(hold.slot), -1)
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


def _read(kind: type[T], found: dict[bytes, bytes]) -> tuple[T, ...]:
    known = []
    for field in sorted(found):
        try:
            known.append(kind(**json.loads(found[field])))
        except (ValueError, TypeError):
            continue
    return tuple(known)


def _hash(kind: type) -> str:
    return keys.BUDGETS if kind is Budget else keys.QUOTAS


def _field(tenant: str, name: str) -> str:
    return f"{tenant}:{name}"


def _text(name: str) -> bytes:
    return resources.files(__package__).joinpath(f"scripts/{name}.lua").read_bytes()
