"""Who builds next: SIDE_BY_SIDE builds at once, and one more for a tenant that has none, so nobody's long builds keep
all others waiting. Owns the count and nothing else; worker.py runs the builds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SIDE_BY_SIDE = 2  # builds are bound by the processor


class Places:
    """Of one builder."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._building: Counter[str] = Counter()  # tenant → builds
        self._waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def take(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a place, and have it."""
        async with self._changed:
            self._waiting[tenant] += 1
            try:
                await self._changed.wait_for(lambda: self._may(tenant))
                self._building[tenant] += 1
            finally:
                self._waiting[tenant] -= 1
        try:
            yield
        finally:
            self._building[tenant] -= 1
            async with self._changed:
                self._changed.notify_all()

    @property
    def left(self) -> bool:
        """Is there one for a tenant that has none?"""
        return self._building.total() < SIDE_BY_SIDE + 1

    def _may(self, tenant: str) -> bool:
        if not self._building[tenant]:
            return self.left
        others = any(waiting and not self._building[other] for other, waiting in self._waiting.items())
        return self._building.total() < SIDE_BY_SIDE and not others
