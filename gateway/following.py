"""Streams that a client follows as they grow: bounded in number, patient when Redis is away, ended at shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from jiffy.contract.errors import Unavailable

FOLLOWERS_MAX = 100  # each holds a connection to Redis
WAIT_MS = 1000  # how long one look may wait; also how soon a follower notices that the gateway is stopping
RETRY_S = 0.5

T = TypeVar("T")
Read = Callable[[str, int], Awaitable[list[tuple[str, T]]]]  # (after, wait_ms) → entries


class Following:
    """All who follow something at this gateway."""

    def __init__(self, most: int = FOLLOWERS_MAX) -> None:
        self._most = most
        self._followers = 0
        self._stopping = False

    def stop(self) -> None:
        """End all streams within WAIT_MS."""
        self._stopping = True

    def admit(self) -> None:
        """Before an answer begins. Raises Unavailable."""
        if self._followers >= self._most or self._stopping:
            raise Unavailable(f"{self._followers} clients follow logs or builds already", retry_after_s=5.0)

    async def follow(self, read: Read[T], after: str) -> AsyncIterator[tuple[str, T] | None]:
        """Entries as they come; None whenever a look found nothing."""
        self._followers += 1
        try:
            while not self._stopping:
                try:
                    entries = await read(after, WAIT_MS)
                except Unavailable:
                    await asyncio.sleep(RETRY_S)
                    continue
                for after, value in entries:
                    yield after, value
                if not entries:
                    yield None
        finally:
            self._followers -= 1
