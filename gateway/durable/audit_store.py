"""What `audit` counts, read from Redis. Nothing is changed; long keys are read in pages."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

from gateway.durable.audit import Places, Sums
from gateway.durable.takeover_store import TakeoverStore
from gateway.store import translated
from jiffy.contract import keys, limits, wire
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Call, Delivery, Revision

PAGE = 256
PAGE_OF_LARGE = 16  # of a hash whose values may be large: a call 6 MiB, a delivery 12
PAGE_MAX_BYTES = 16 * limits.MIB  # of one page of a hash, about


class AuditStore:
    """`client` is gateway.store.Store's."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._streams = TakeoverStore(client)

    async def sums(self) -> Sums:
        """All of one moment. Raises Unavailable."""
        with translated():
            tenants = await self._names(keys.tally(""))
            pipe = self._redis.pipeline(transaction=True)
            for tenant in tenants:
                pipe.hgetall(keys.tally(tenant))
                pipe.hlen(keys.backlog(tenant))
                pipe.zcard(keys.dead(tenant))
                pipe.hlen(keys.dead_letters(tenant))
                pipe.hlen(keys.dead_calls(tenant))
            pipe.zcard(keys.LATER).hlen(keys.LATER_CALLS).zcard(keys.DELIVERIES).hlen(keys.DELIVERY_ITEMS)
            pipe.get(keys.METERED).xlen(keys.USAGE)
            *each, later, calls, deliveries, items, metered, unsettled = await pipe.execute()
        of = {tenant: each[n * 5 : n * 5 + 5] for n, tenant in enumerate(tenants)}
        return Sums(
            tallies={t: {name.decode(): int(value) for name, value in found[0].items()} for t, found in of.items()},
            backlogs={t: found[1] for t, found in of.items()},
            dead={t: (found[2], found[3], found[4]) for t, found in of.items()},
            later=(later, calls),
            deliveries=(deliveries, items),
            metered=int(metered or 0),
            unsettled=unsettled,
        )

    async def places(self) -> dict[str, Places]:
        """Where every asynchronous call is, held against the backlogs. Raises Unavailable."""
        misplaced: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        size: Counter[str] = Counter()
        async for page in self._waiting():
            of: defaultdict[str, list[tuple[str, Call]]] = defaultdict(list)
            for where, call in page:
                of[_owner(call)].append((where, call))
            for tenant, calls in of.items():
                with translated():
                    known = await self._redis.hmget(keys.backlog(tenant), [call.invocation for _, call in calls])
                seen[tenant] += len(calls)
                misplaced[tenant] += sum(at != where.encode() for at, (where, _) in zip(known, calls, strict=True))
                size[tenant] += sum(len(call.payload) for _, call in calls)
        async for delivery, length in self._told():
            size[delivery.tenant] += length
        with translated():
            tenants = await self._names(keys.tally(""))
            backlogs = {tenant: int(await self._redis.hlen(keys.backlog(tenant))) for tenant in tenants}
        return {
            t: Places(misplaced[t], max(0, backlogs.get(t, 0) - seen[t] + misplaced[t]), size[t])
            for t in {*backlogs, *seen}
        }

    async def _waiting(self) -> AsyncIterator[list[tuple[str, Call]]]:
        """Pages of (where, Call): all asynchronous calls on streams and in `later`."""
        with translated():
            invokers = await self._names(keys.calls(""))
        for invoker in invokers:
            stream, after = keys.calls(invoker), ""
            while page := await self._streams.left(invoker, after, PAGE):
                yield _asynchronous([(f"{stream} {left.entry}", left.packed) for left in page])
                after = page[-1].entry
        async for packed in self._values(keys.LATER_CALLS):
            yield _asynchronous([("later", packed)])

    async def _values(self, key: str) -> AsyncIterator[bytes]:
        """All values of a hash; a page holds as many as one reply should, going by the largest of the last one."""
        cursor, count = None, PAGE_OF_LARGE
        while cursor != 0:
            with translated():
                cursor, found = await self._redis.hscan(key, cursor or 0, count=count)
            for packed in found.values():
                yield packed
            largest = max(map(len, found.values()), default=1)
            count = max(1, min(PAGE, 2 * count, PAGE_MAX_BYTES // largest))

    async def _told(self) -> AsyncIterator[tuple[Delivery, int]]:
        """All deliveries that wait, with the bytes that count for each."""
        async for packed in self._values(keys.DELIVERY_ITEMS):
            with contextlib.suppress(PlatformError):  # a newer release's
                yield wire.unpack(Delivery, packed), len(packed)

    async def _names(self, prefix: str) -> list[str]:
        """What stands behind `prefix` in all keys that begin with it."""
        found = [key.decode() async for key in self._redis.scan_iter(f"{prefix}*", count=1000)]
        return sorted({key[len(prefix) :] for key in found})


def _asynchronous(packed: list[tuple[str, bytes]]) -> list[tuple[str, Call]]:
    calls = []
    for where, data in packed:
        try:
            call = wire.unpack(Call, data)
        except PlatformError:
            continue  # it is no call; an invoker drops it
        if call.mode == "async":
            calls.append((where, call))
    return calls


def _owner(call: Call) -> str:
    try:
        return wire.unpack(Revision, call.revision).tenant
    except PlatformError:
        return ""  # nobody's backlog has it
