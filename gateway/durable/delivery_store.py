"""Deliveries in Redis: lease what is due, write down what became of it. Read deliveries.py first."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from gateway.durable.store import script, text
from gateway.store import translated
from jiffy.contract import burial, keys, limits, lua, wire
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import DeadLetter, Delivery


class Leased(NamedTuple):
    """A delivery that is ours until `lease`, the moment (ms) that proves it."""

    delivery: Delivery
    lease: int


class DeliveryStore:
    """`client` is gateway.store.Store's."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._lease = script(client, "lease")
        self._settle = client.register_script(lua.script(text("settle"), burial.RULE))
        self._redeliver = client.register_script(lua.script(text("redeliver"), burial.RULE))

    async def lease(self, count: int, lease_ms: int) -> list[Leased]:
        """Up to `count` deliveries that are due, for `lease_ms`."""
        with translated():
            flat = await self._lease(keys=[keys.DELIVERIES, keys.DELIVERY_ITEMS], args=[count, lease_ms])
        found: list[Leased] = []
        for packed, ends in zip(flat[1::3], flat[2::3], strict=True):
            try:
                found.append(Leased(wire.unpack(Delivery, packed), int(ends)))
            except PlatformError:
                continue  # a newer release's: it will take it
        return found

    async def delivered(self, leased: Leased) -> None:
        await self._end(leased, "delivered", 0, b"", b"")

    async def again(self, leased: Leased, delivery: Delivery, due_ms: int) -> None:
        await self._end(leased, "again", due_ms, wire.pack(delivery), b"")

    async def undelivered(self, leased: Leased, letter: DeadLetter) -> None:
        await self._end(leased, "undelivered", letter.dead_ms, wire.pack(leased.delivery), wire.pack(letter))

    async def _end(self, leased: Leased, state: str, moment_ms: int, delivery: bytes, letter: bytes) -> None:
        one = leased.delivery
        values = [one.id, leased.lease, state, moment_ms, delivery, letter]
        values += (limits.DEAD_MAX, limits.DEAD_MAX_BYTES, limits.DEAD_KEEP_S * 1000)
        with translated():
            await self._settle(keys=_keys(one.tenant), args=values)

    async def waiting(self, invocation: str, attempt: int) -> tuple[Delivery, int] | None:
        """What is still to be told of this attempt, and when that is tried next, in ms; while it is tried: again."""
        name = f"{invocation}.{attempt}"
        with translated():
            packed = await self._redis.hget(keys.DELIVERY_ITEMS, name)
            due = await self._redis.zscore(keys.DELIVERIES, name) if packed else None
        return (wire.unpack(Delivery, packed), int(due)) if packed and due is not None else None

    async def redeliver(self, tenant: str, batch: Sequence[Delivery], now_ms: int) -> int:
        """How many of these were dead, and are now tried again."""
        values = [value for one in batch for value in (one.id, wire.pack(one), now_ms)]
        with translated():
            return int(await self._redeliver(keys=_keys(tenant), args=values)) if batch else 0

    async def secret(self, tenant: str) -> str:
        """What this tenant's callbacks are signed with: "whsec_" and base64; made when first asked for."""
        made = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        with translated():
            await self._redis.set(keys.callback_secret(tenant), made, nx=True)
            kept: bytes = await self._redis.get(keys.callback_secret(tenant))
        return kept.decode()


def _keys(tenant: str) -> list[str]:
    names = [keys.DELIVERIES, keys.DELIVERY_ITEMS, keys.tally(tenant)]
    return [*names, keys.dead(tenant), keys.dead_letters(tenant), keys.dead_calls(tenant)]
