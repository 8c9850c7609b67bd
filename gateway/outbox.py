"""What is to be sent to Redis, gathered while the batch before it is on its way: so batches grow under load.

One sender takes; any number add. Nothing here sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from jiffy.contract import limits

BATCH_MAX = limits.STREAM_READ_MAX  # what an invoker reads at once
BATCH_MAX_BYTES = 16 * limits.MIB  # keeps one command of large payloads from holding up the next

T = TypeVar("T")


class Outbox(Generic[T]):
    """`bytes_of` says how large an item's payload is."""

    def __init__(self, bytes_of: Callable[[T], int] = lambda _: 0) -> None:
        self._bytes_of = bytes_of
        self._items: list[T] = []
        self._some = asyncio.Event()

    def add(self, item: T) -> None:
        self._items.append(item)
        self._some.set()

    def clear(self) -> list[T]:
        """Forget what has not been taken; it is returned."""
        items, self._items = self._items, []
        self._some.clear()
        return items

    def put_back(self, batch: list[T]) -> None:
        """It was taken, and not sent: it goes before what came since."""
        self._items[:0] = batch
        self._some.set()

    async def take(self) -> list[T]:
        """What has gathered, as much of it as one command should carry; waits for the first."""
        await self._some.wait()
        items, size = self._items, 0
        for n, item in enumerate(items):
            size += self._bytes_of(item)
            if n == BATCH_MAX or (n and size > BATCH_MAX_BYTES):
                batch, self._items = items[:n], items[n:]
                return batch
        self._items = []
        self._some.clear()
        return items
