"""Moves calls whose time has come, delayed ones and next attempts, to the invokers that shall run them.

Every gateway looks; taking a call out of `later` is the fence (scripts/move.lua), so none is moved twice and none
waits for a gateway that died. Where no invoker lives, calls stay and wait for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from gateway.durable.store import Due
from gateway.placement import Placement
from jiffy.contract import wire
from jiffy.contract.errors import JiffyError, PlatformError
from jiffy.contract.messages import Call, InvocationRecord, Revision, State

LOOK_S = 0.1  # how late a call that is due may be; ten looks a second cost Redis nothing
TROUBLE_S = 0.5
MOVE_MAX = 256  # calls in one step: about 2 ms in which Redis does nothing else
REVISIONS_MAX = 1024  # unpacked ones kept by their bytes


class Waiting(Protocol):
    """Where calls wait; `store.DurableStore` is one. Both raise Unavailable."""

    async def due(self, count: int, skip: int) -> list[tuple[str, bytes]]: ...

    async def move(self, batch: Sequence[Due]) -> int: ...


class Later:
    """See the module."""

    def __init__(self, waiting: Waiting, placement: Placement) -> None:
        self._waiting = waiting
        self._placement = placement
        self._revisions: dict[bytes, Revision] = {}

    async def watch(self) -> None:
        """Look again and again, for as long as the gateway runs."""
        while True:
            try:
                await self.look()
                pause = LOOK_S
            except JiffyError:
                pause = TROUBLE_S
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Move all that is due; what has no invoker now is passed over. Raises Unavailable."""
        skip = 0
        while found := await self._waiting.due(MOVE_MAX, skip):
            batch = [due for invocation, packed in found if (due := self._place(invocation, packed)) is not None]
            skip += len(found) - len(batch)
            if batch:
                await self._waiting.move(batch)

    def _place(self, invocation: str, packed: bytes) -> Due | None:
        """Where this call goes now; None when there is nowhere, or when it can't be read."""
        try:
            call = wire.unpack(Call, packed)
            revision = self._revisions.get(call.revision) or self._learn(call.revision)
            invoker = self._placement.place(revision.tenant, revision.function, revision.network, revision.store)
        except PlatformError:
            return None
        record = InvocationRecord(
            *(invocation, revision.tenant, revision.function, revision.number),
            *(State.QUEUED, call.accepted_ms, call.attempt - 1, None),
        )
        return Due(invoker, revision.tenant, record)

    def _learn(self, packed: bytes) -> Revision:
        if len(self._revisions) >= REVISIONS_MAX:
            self._revisions.clear()
        revision = self._revisions[packed] = wire.unpack(Revision, packed)
        return revision
