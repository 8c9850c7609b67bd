"""Freezing one revision's idle sandboxes, and waking them: what is between "it should" and "it is".

A frozen sandbox's idle instances lie in its box (`asleep`), not on the pool's stack. A box is `changing` while one of
these steps is under way; nothing else may be begun with it then. When to freeze or wake is revision_pool.py's to say.
"""

from __future__ import annotations

from collections.abc import Callable

from .cold_start import quietly
from .lease import Box, Host, Slot


class Sleep:
    """See the module. `woken` is given the instances that are awake again, none after a freeze."""

    def __init__(self, host: Host, woken: Callable[[list[Slot], int], None]) -> None:
        self.waking = False
        self._host = host
        self._woken = woken

    def freeze(self, box: Box, idle: list[Slot]) -> None:
        box.asleep = idle
        self._host.figures.decisions["freeze"] += 1
        box.changing = True
        self._host.spawn(self._freeze(box))

    async def _freeze(self, box: Box) -> None:
        await quietly(box.sandbox.freeze())
        box.changing = False
        self._woken([], self._host.now())  # calls may have come meanwhile

    def wake(self, box: Box) -> None:
        self.waking = box.changing = True
        self._host.figures.decisions["thaw"] += 1
        self._host.spawn(self._wake(box))

    async def _wake(self, box: Box) -> None:
        await quietly(box.sandbox.thaw())
        slots, box.asleep, box.changing = box.asleep or [], None, False
        now_us = box.last_used_us = self._host.now()
        self.waking = False
        self._woken([slot for slot in slots if not slot.dead], now_us)

    def thin(self, box: Box, spent: list[Slot]) -> None:
        """End some instances of a frozen sandbox. A frozen process can't notice that its connection closed."""
        self.waking = box.changing = True
        self._host.spawn(self._thin(box, spent))

    async def _thin(self, box: Box, spent: list[Slot]) -> None:
        since_us = box.last_used_us
        box.asleep = [slot for slot in box.asleep or [] if slot not in spent]
        for slot in spent:
            slot.pool.discard(slot)
        await self._wake(box)
        box.last_used_us = since_us  # nobody called: the sandbox's own age goes on
