"""What an invoker that fell silent left behind goes to others: its host died, hangs, or can't reach Redis.

Every gateway looks, and none needs to be elected: one step moves a call or does not (scripts/take_over.lua). What had
only been queued runs elsewhere; what the invoker had been given may have begun, so that attempt has failed: another
invoker writes its end down without running it (Call.lost), a synchronous caller gets 502, an asynchronous call its
next attempt. An invoker that was only paused begins nothing meanwhile and completes nothing afterwards
(invoker/execute.py).

Silence is measured by this gateway's own clock, and only while Redis answers it: neither clocks that disagree nor a
Redis that was away take anything from anybody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from gateway.durable.takeover_store import Left, Stream, Taken
from gateway.placement import Placement
from jiffy.contract import limits, wire
from jiffy.contract.errors import JiffyError, PlatformError
from jiffy.contract.messages import Call, Revision

LOOK_S = 0.25
GAP_S = 1.5  # a look that comes so late sees nothing: we, or Redis, were away meanwhile
FRUITLESS_S = 10.0  # how long a stream is left alone for which there was nowhere, unless hosts come or go
PAGE = 256  # calls in one step: about 3 ms in which Redis does nothing else

log = logging.getLogger("jiffy.gateway")


class Streams(Protocol):
    """Where calls are queued; `takeover_store.TakeoverStore` is one. All raise Unavailable."""

    async def streams(self) -> list[Stream]: ...

    async def left(self, invoker: str, after: str, count: int) -> list[Left]: ...

    async def take_over(self, silent: Stream, batch: Sequence[Taken]) -> bool: ...


class Heard(NamedTuple):
    """A heartbeat, and since when there was no other."""

    mark: str
    since_s: float


class Fruitless(NamedTuple):
    """When a stream was read in vain, and which hosts there were."""

    hosts: tuple[str, ...]
    at_s: float


class Takeover:
    """See the module. `give_up` tells a caller of this gateway, if it waits for that invocation, why it is in vain."""

    def __init__(
        self,
        streams: Streams,
        placement: Placement,
        give_up: Callable[[str, JiffyError], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._streams = streams
        self._placement = placement
        self._give_up = give_up
        self._now_s = now_s
        self._looked_s = 0.0
        self._heard: dict[str, Heard] = {}
        self._fruitless: dict[str, Fruitless] = {}

    async def watch(self) -> None:
        """Look again and again, for as long as the gateway runs."""
        while True:
            try:
                await self.look()
            except JiffyError as exc:
                log.debug("silent invokers can't be looked for: %s", exc.message)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Take over what silent invokers left. Raises Unavailable."""
        silent = [one for one in self._silent(await self._streams.streams()) if one.calls]
        names = {one.invoker for one in silent}
        self._fruitless = {name: last for name, last in self._fruitless.items() if name in names}
        for one in silent:
            last = self._fruitless.get(one.invoker)
            if last is None or last.hosts != self._placement.invokers or self._now_s() - last.at_s >= FRUITLESS_S:
                await self._take_over(one)

    def _silent(self, streams: Sequence[Stream]) -> list[Stream]:
        """Those whose last heartbeat we have seen for too long."""
        now_s = self._now_s()
        heard = self._heard if now_s - self._looked_s <= GAP_S else {}
        self._looked_s = now_s
        self._heard = {
            one.invoker: known
            if (known := heard.get(one.invoker)) and known.mark == one.mark
            else Heard(one.mark, now_s)
            for one in streams
        }
        return [one for one in streams if now_s - self._heard[one.invoker].since_s >= limits.TAKEN_AFTER_S]

    async def _take_over(self, silent: Stream) -> None:
        after, moved = "", 0
        hosts = self._placement.invokers
        anybody = any(host != silent.invoker for host in hosts)
        while page := await self._streams.left(silent.invoker, after, PAGE):
            after = page[-1].entry
            batch = [taken for left in page if (taken := self._place(silent.invoker, left)) is not None]
            if batch and not await self._streams.take_over(silent, batch):
                return
            moved += len(batch)
            self._looked_s = self._now_s()  # that took its time, and Redis answered all the while
            if not anybody and not any(left.given for left in page):
                break  # who waits for what it was given is told; the rest waits for a host
        if moved:
            self._fruitless.pop(silent.invoker, None)
            log.warning("%s is silent: %d of its calls went to other invokers", silent.invoker, moved)
        else:
            self._fruitless[silent.invoker] = Fruitless(hosts, self._now_s())

    def _place(self, silent: str, left: Left) -> Taken | None:
        """Where this call goes; None when there is nowhere now, or when it can't be read."""
        try:
            call = wire.unpack(Call, left.packed)
            revision = wire.unpack(Revision, call.revision)
        except PlatformError:
            return None
        try:
            invoker = self._placement.place(revision.tenant, revision.function, revision.network, revision.store)
        except PlatformError:
            invoker = silent
        if invoker == silent:
            if left.given and call.mode == "sync":
                self._give_up(call.invocation, PlatformError(f"the invoker {silent} was lost while it had this call"))
            return None
        if left.given and not call.lost:
            call = call._replace(lost=silent)
        return Taken(left, invoker, revision.tenant, call)
