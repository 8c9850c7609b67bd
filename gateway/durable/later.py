"""Moves calls whose time has come, delayed ones and next attempts, to the invokers that shall run them.

Every gateway looks; taking a call out of `later` is the fence (scripts/move.lua), so none is moved twice and none
waits for a gateway that died. Where no invoker lives, calls stay and wait for one, unread. A call under a hard budget
or a quota waits, too, until it is let in, at the longest until it has expired; then its invoker buries it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.budgets.guard import Guard
from gateway.budgets.plan import Plan
from gateway.durable.store import Due
from gateway.placement import Placement
from jiffy.contract import wire
from jiffy.contract.errors import BudgetExceeded, JiffyError, PlatformError
from jiffy.contract.messages import Call, InvocationRecord, Revision, State
from jiffy.contract.spending import Hold

LOOK_S = 0.1  # how late a call that is due may be; ten looks a second cost Redis nothing
TROUBLE_S = 0.5
MOVE_MAX = 256  # calls in one step: about 2 ms in which Redis does nothing else
REVISIONS_MAX = 1024  # unpacked ones kept by their bytes
NOWHERE_MS = (1000, 3000)  # when to look again at what no host can run now
HELD_MS = (500, 1500)  # when to try again for what others hold …
USED_UP_MS = (10_000, 30_000)  # … and for a budget that is used up: it may be raised meanwhile


class Waiting(Protocol):
    """Where calls wait; `store.DurableStore` is one. All raise Unavailable."""

    async def due(self, count: int) -> list[tuple[str, bytes]]: ...

    async def move(self, batch: Sequence[Due]) -> list[int]: ...

    async def postpone(self, moments: Mapping[str, int]) -> None: ...


class _Ready(NamedTuple):
    """A call that has somewhere to go."""

    due: Due
    call: Call
    plan: Plan | None
    hold: Hold | None = None


class Later:
    """See the module."""

    def __init__(self, waiting: Waiting, placement: Placement, guard: Guard, now_ms: Callable[[], int]) -> None:
        self._waiting = waiting
        self._placement = placement
        self._guard = guard
        self._now_ms = now_ms
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
        """Move all that is due; what has no invoker now is looked at again later. Raises Unavailable.

        A page for which there is nowhere is the last: what stands behind it comes to the front with the next look.
        """
        moving = True
        while moving and self._placement.invokers and (found := await self._waiting.due(MOVE_MAX)):
            ready = [one for invocation, packed in found if (one := self._place(invocation, packed)) is not None]
            if len(ready) < len(found):
                placed = {one.due.record.invocation for one in ready}
                nowhere = [invocation for invocation, _ in found if invocation not in placed]
                await self._waiting.postpone({invocation: self._again_ms(NOWHERE_MS) for invocation in nowhere})
            await self._move(await self._let_in(ready))
            moving = bool(ready)

    async def _move(self, ready: Sequence[_Ready]) -> None:
        moved = await self._waiting.move([one.due for one in ready]) if ready else []
        for one, done in zip(ready, moved, strict=True):
            if not done and one.hold is not None and one.hold.holds:
                await self._guard.release(one.hold)  # another gateway moved it, with room of its own

    def _place(self, invocation: str, packed: bytes) -> _Ready | None:
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
            line=call.line,
        )
        return _Ready(Due(invoker, revision.tenant, record), call, self._guard.plan(revision))

    def _again_ms(self, span: tuple[int, int]) -> int:
        return self._now_ms() + random.randint(*span)  # noqa: S311 - spreads load, guards nothing

    def _learn(self, packed: bytes) -> Revision:
        if len(self._revisions) >= REVISIONS_MAX:
            self._revisions.clear()
        revision = self._revisions[packed] = wire.unpack(Revision, packed)
        return revision

    # --- budgets --------------------------------------------------------------------------------------------

    async def _let_in(self, ready: Sequence[_Ready]) -> list[_Ready]:
        """Those that may run, with what they spend of written in them; the others are looked at again later."""
        now_ms = self._now_ms()
        asking = [one for one in ready if one.plan is not None and one.plan.asks and not _expired(one.call, now_ms)]
        holds = {one.due.record.invocation: self._guard.async_hold(one.plan, now_ms) for one in asking if one.plan}
        wanted = [(one.plan, holds[one.due.record.invocation]) for one in asking if one.plan]
        refused = dict(zip(holds, await self._guard.try_all(wanted), strict=True)) if wanted else {}
        again: dict[str, int] = {}
        let_in = []
        for one in ready:
            invocation = one.due.record.invocation
            if error := refused.get(invocation):
                span = USED_UP_MS if isinstance(error, BudgetExceeded) else HELD_MS
                at_ms = self._again_ms(span)
                again[invocation] = min(at_ms, one.call.terms.expires_ms) if one.call.terms else at_ms
                continue
            hold = holds.get(invocation)
            if hold is None and one.plan is not None and not one.plan.asks:
                hold = self._guard.async_hold(one.plan, now_ms)
            let_in.append(_with(one, hold))
        if again:
            await self._waiting.postpone(again)
        return let_in


def _with(one: _Ready, hold: Hold | None) -> _Ready:
    """The same with this hold in its call, in place of an earlier attempt's."""
    if hold is None and not one.call.hold:
        return one
    call = wire.pack(one.call._replace(hold=hold or ()))
    return one._replace(due=one.due._replace(call=call), hold=hold)


def _expired(call: Call, now_ms: int) -> bool:
    return call.terms is not None and call.terms.expires_ms <= now_ms
