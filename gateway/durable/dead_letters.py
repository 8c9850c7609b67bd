"""Calls that failed for good: look at them, give them another life, or throw them away.

A replayed call keeps its id and counts its attempts on; it runs the revision that is live now, because it was most
likely mended by a new one. Its retries and its age begin anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

from gateway.catalog import Catalog
from gateway.durable.acceptance import keep_s
from gateway.durable.store import Replay
from gateway.durable.wishes import NONE
from jiffy.contract import limits
from jiffy.contract.errors import NotFound
from jiffy.contract.messages import Call, DeadLetter, Delivery, InvocationRecord, State

PAGE = 64  # letters looked at or calls replayed in one step


class Kept(Protocol):
    """Where dead letters are; `store.DurableStore` is one. All raise Unavailable."""

    async def letters(self, tenant: str, after: tuple[int, str] | None, count: int) -> list[DeadLetter]: ...

    async def letter(self, tenant: str, invocation: str) -> tuple[DeadLetter, Call | Delivery] | None: ...

    async def replay(self, tenant: str, batch: Sequence[Replay]) -> int: ...

    async def purge(self, tenant: str, invocations: Sequence[str]) -> int: ...


class Deliveries(Protocol):
    """Where deliveries wait; `delivery_store.DeliveryStore` is one. Raises Unavailable."""

    async def redeliver(self, tenant: str, batch: Sequence[Delivery], now_ms: int) -> int: ...


class Page(NamedTuple):
    letters: list[DeadLetter]
    next: str | None  # `after` of the next page


class DeadLetters:
    """The dead letters of any tenant, newest first."""

    def __init__(self, kept: Kept, deliveries: Deliveries, catalog: Catalog, now_ms: Callable[[], int]) -> None:
        self._kept = kept
        self._deliveries = deliveries
        self._catalog = catalog
        self._now_ms = now_ms

    async def page(self, tenant: str, function: str | None, after: str | None, limit: int) -> Page:
        """Raises ValueError when `after` is no position."""
        found: list[DeadLetter] = []
        async for letter in self._all(tenant, function, _moment(after) if after else None):
            if len(found) == limit:
                return Page(found, f"{found[-1].dead_ms}.{found[-1].invocation}")
            found.append(letter)
        return Page(found, None)

    async def find(self, tenant: str, invocation: str) -> tuple[DeadLetter, Call | Delivery]:
        """The letter, and its call's last attempt, or the delivery that did not get through. Raises NotFound."""
        found = await self._kept.letter(tenant, invocation)
        if found is None:
            raise NotFound(f"there is no dead letter {invocation}")
        return found

    async def replay(self, tenant: str, invocation: str) -> None:
        """Raises NotFound: no such letter, or its function is gone."""
        if not await self._replay(tenant, [await self._another_life(await self.find(tenant, invocation))]):
            raise NotFound(f"there is no dead letter {invocation}")

    async def _replay(self, tenant: str, batch: Sequence[Replay | Delivery]) -> int:
        calls = [one for one in batch if isinstance(one, Replay)]
        deliveries = [one for one in batch if isinstance(one, Delivery)]
        replayed = await self._kept.replay(tenant, calls)
        return replayed + await self._deliveries.redeliver(tenant, deliveries, self._now_ms())

    async def replay_all(self, tenant: str, function: str | None) -> int:
        """How many; all of one function, or of all functions that still exist."""
        replayed = 0
        begun_ms = self._now_ms()
        async for letters in self._batches(tenant, function):
            batch: list[Replay | Delivery] = []
            for letter in letters:
                found = await self._kept.letter(tenant, letter.invocation)
                if found is None or letter.dead_ms > begun_ms:
                    continue  # one that died again meanwhile is not tried in a circle
                try:
                    batch.append(await self._another_life(found))
                except NotFound:
                    continue
            replayed += await self._replay(tenant, batch)
        return replayed

    async def purge(self, tenant: str, invocation: str) -> None:
        """Raises NotFound."""
        if not await self._kept.purge(tenant, [invocation]):
            raise NotFound(f"there is no dead letter {invocation}")

    async def purge_all(self, tenant: str, function: str | None) -> int:
        """How many; all of one function, or all."""
        purged = 0
        async for letters in self._batches(tenant, function):
            purged += await self._kept.purge(tenant, [letter.invocation for letter in letters])
        return purged

    async def _another_life(self, dead: tuple[DeadLetter, Call | Delivery]) -> Replay | Delivery:
        letter, call = dead
        if isinstance(call, Delivery):
            expires_ms = self._now_ms() + limits.DELIVERY_MAX_AGE_S * 1000
            return call._replace(terms=call.terms._replace(expires_ms=expires_ms, tried=0, failed=0))
        function = await self._catalog.find(letter.tenant, letter.function)
        now_ms = self._now_ms()
        depth = call.terms.depth if call.terms else 0
        terms = NONE.terms(function.revision.spec, now_ms)._replace(depth=depth)
        again = call._replace(
            attempt=call.attempt + 1,
            deadline_ms=terms.expires_ms + function.revision.timeout_ms,
            revision=function.packed,
            terms=terms,
        )
        record = InvocationRecord(
            *(letter.invocation, letter.tenant, letter.function, function.revision.number),
            *(State.QUEUED, letter.accepted_ms, letter.attempts, None),
            now_ms,
            line=call.line,
        )
        return Replay(again, record, keep_s(terms.expires_ms, now_ms), now_ms)

    async def _batches(self, tenant: str, function: str | None) -> AsyncIterator[list[DeadLetter]]:
        batch: list[DeadLetter] = []
        async for letter in self._all(tenant, function, None):
            batch.append(letter)
            if len(batch) == PAGE:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _all(self, tenant: str, function: str | None, after: tuple[int, str] | None) -> AsyncIterator[DeadLetter]:
        while letters := await self._kept.letters(tenant, after, PAGE):
            for letter in letters:
                if function is None or letter.function == function:
                    yield letter
            after = letters[-1].dead_ms, letters[-1].invocation
            await asyncio.sleep(0)


def _moment(after: str) -> tuple[int, str]:
    moment, dot, invocation = after.partition(".")
    if not dot:
        raise ValueError("no position of a page")
    return int(moment), invocation
