"""The invoker's pulse: what it says about itself every limits.HEARTBEAT_S, until it leaves.

A beat also sets the clock, brings the word whether this host shall drain, and notices a Redis that no longer answers.
One that arrived holds this invoker's calls for limits.HELD_S: after that they may be given to others.
What gateways make of beats is their business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from jiffy.contract import limits
from jiffy.contract.clock import Clock
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Heartbeat

from .pool import Pool
from .stems import Stems

log = logging.getLogger(__name__)


class Board(Protocol):
    """Where beats go: store.Store."""

    async def beat(self, heartbeat: Heartbeat) -> bool: ...


class Pulse:
    """See the module."""

    def __init__(
        self,
        board: Board,
        clock: Clock,
        pool: Pool,
        stems: Stems,
        who: tuple[str, str, str, bool, str, str],
        drain: Callable[[bool], None],
        renew: Callable[[int], None],
    ) -> None:
        self._drain = drain
        self._renew = renew
        self._board = board
        self._clock = clock
        self._pool = pool
        self._stems = stems
        self._who = who  # invoker, host, driver, network, layer store, registry
        self._started_ms = clock() // 1000
        self._lost = False

    def beat(self) -> Heartbeat:
        """What would be said now."""
        invoker, host, driver, network, store, registry = self._who
        pool = self._pool
        return Heartbeat(
            *(invoker, host, self._clock() // 1000, self._started_ms, driver, network),
            running=pool.running,
            waiting=pool.totals.calls,
            instances_max=pool.room.instances_max,
            memory_free_mb=max(0, pool.memory.free_mb),
            stems=self._stems.ready(),
            functions=pool.statuses(),
            draining=pool.closing or pool.draining,
            instances=pool.instances,
            stems_wanted=self._stems.wanted(),
            decisions=dict(pool.figures.decisions),
            histograms=pool.figures.packed(pool.begun),
            store=store,
            registry=registry,
            bases=self._stems.bases(),
        )

    async def send(self) -> None:
        """One beat. A Redis that does not answer is told in the log once, and once when it is back."""
        asked_us = self._clock.monotonic_us()
        try:
            ordered = await self._board.beat(self.beat())
        except PlatformError as exc:
            if not self._lost:
                log.warning("%s; calls that run go on, their results are kept until it is back", exc.message)
            self._lost = True
        else:
            if self._lost:
                log.warning("Redis answers again")
            self._lost = False
            self._renew(asked_us)
            self._drain(ordered)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self.send()
            await asyncio.sleep(limits.HEARTBEAT_S)
