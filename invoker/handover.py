"""Handing calls that have not begun to other hosts, while this one drains.

A call goes to the least loaded host that can run it, all of one revision to the same. Where there is no other host the
calls stay, and run here. What Redis does for it is one fenced step (scripts/hand_over.lua), asked for until it is
answered: a call whose fate is unknown must not run here, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

from jiffy.contract import limits
from jiffy.contract.clock import Clock
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Heartbeat

from .attempt import Attempt

log = logging.getLogger(__name__)

AGAIN_S = 0.2


class Board(Protocol):
    """Who else is there, and the step itself: store.Store."""

    async def beats(self) -> list[Heartbeat]: ...
    async def hand_over(self, attempts: Sequence[Attempt], to: str) -> int: ...


class Handover:
    """See the module."""

    def __init__(self, board: Board, invoker: str, clock: Clock) -> None:
        self._board = board
        self._invoker = invoker
        self._clock = clock

    async def others(self) -> tuple[Heartbeat, ...]:
        """Hosts that take calls, this one excepted; none where Redis does not say."""
        try:
            return live(await self._board.beats(), self._invoker, self._clock() // 1000)
        except PlatformError:
            return ()

    async def move(self, attempts: Iterable[Attempt]) -> list[Attempt]:
        """Hand over all that can be; returns those that stay."""
        attempts = list(attempts)
        others = await self.others() if attempts else ()
        targets: dict[tuple[str, str, int], str] = {}
        batches: dict[str, list[Attempt]] = defaultdict(list)
        stay: list[Attempt] = []
        for attempt in attempts:
            revision = attempt.known.revision
            name = revision.tenant, revision.function, revision.number
            if name not in targets:
                targets[name] = choose(others, network=revision.network, store=revision.store)
            (batches[targets[name]] if targets[name] else stay).append(attempt)
        for to, batch in batches.items():
            for start in range(0, len(batch), limits.STREAM_READ_MAX):
                await self._surely(batch[start : start + limits.STREAM_READ_MAX], to)
            log.info("handed %d calls that had not begun to %s", len(batch), to)
        return stay

    async def _surely(self, batch: list[Attempt], to: str) -> None:
        while True:
            try:
                await self._board.hand_over(batch, to)
                return
            except PlatformError as exc:
                log.warning("calls can't be handed over yet: %s", exc.message)
                await asyncio.sleep(AGAIN_S)


def live(beats: Iterable[Heartbeat], invoker: str, now_ms: int) -> tuple[Heartbeat, ...]:
    """Those that were heard of lately and take calls, `invoker` excepted."""
    oldest = now_ms - int(limits.SILENT_AFTER_S * 1000)
    return tuple(beat for beat in beats if beat.invoker != invoker and beat.at_ms >= oldest and not beat.draining)


def choose(beats: Iterable[Heartbeat], *, network: bool, store: str = "") -> str:
    """The least loaded of those that can run it; "": none can."""
    able = [beat for beat in beats if (beat.network or not network) and store in ("", beat.store, beat.registry)]
    shares = [((beat.running + beat.waiting) / max(1, beat.instances_max), beat.invoker) for beat in able]
    return min(shares)[1] if shares else ""
