"""Who is alive: reads the heartbeats every HEARTBEAT_S, and tells the placement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.placement import Placement, live
from gateway.store import Beats
from jiffy.contract import limits
from jiffy.contract.errors import JiffyError
from jiffy.contract.messages import BuilderBeat, Heartbeat


class Hearing(Protocol):
    """Where heartbeats are heard; `store.Store` is one."""

    async def beats(self) -> Beats: ...


class Pulse:
    """The last heartbeats."""

    def __init__(self, store: Hearing, placement: Placement, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._placement = placement
        self._now_ms = now_ms
        self._beats = Beats()

    async def look(self) -> None:
        """Read the heartbeats once. Raises Unavailable; those who were alive then grow silent by themselves."""
        try:
            self._beats = await self._store.beats()
        finally:
            self._placement.update(live(self._beats.invokers, self._now_ms()), draining=self.draining())

    async def watch(self) -> None:
        """Look again and again, for as long as the gateway runs."""
        while True:
            await asyncio.sleep(limits.HEARTBEAT_S)
            try:
                await self.look()
            except JiffyError:
                continue

    def invokers(self) -> list[Heartbeat]:
        """Live invokers, draining ones included."""
        oldest = self._now_ms() - limits.SILENT_AFTER_S * 1000
        return sorted(beat for beat in self._beats.invokers if beat.at_ms >= oldest)

    def builders(self) -> list[BuilderBeat]:
        oldest = self._now_ms() - limits.SILENT_AFTER_S * 1000
        return sorted(beat for beat in self._beats.builders if beat.at_ms >= oldest)

    def draining(self) -> bool:
        """Are there invokers, and none that takes calls?"""
        invokers = self.invokers()
        return bool(invokers) and all(beat.draining for beat in invokers)

    def missing(self) -> list[str]:
        """What the platform lacks to be healthy."""
        able = any(not beat.draining for beat in self.invokers())
        return [*([] if able else ["invoker"]), *([] if self.builders() else ["builder"])]
