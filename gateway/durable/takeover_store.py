"""The streams of invokers in Redis: who is silent, what it left, and the step that gives it to others.

Read takeover.py first. Each script's header documents its keys and arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gateway.durable.store import script
from gateway.store import translated
from jiffy.contract import keys, wire
from jiffy.contract.messages import Call

ALIVE_EVERY_MS = 3600_000  # how exactly it is kept when an invoker was alive: a write an hour costs nothing
FORGET_AFTER_MS = 24 * 3600_000  # a host that is gone for a day, and left nothing; a gateway that still sends to it
# would have been stopped for as long between choosing it and sending


class Stream(NamedTuple):
    """One invoker's stream."""

    invoker: str
    mark: str  # of its last heartbeat: another one, another mark; "": none
    calls: int


class Left(NamedTuple):
    """One entry of a silent invoker's stream."""

    entry: str
    packed: bytes  # Call
    given: bool  # the invoker was given it, and may have begun it


class Taken(NamedTuple):
    """One call that goes to another invoker."""

    left: Left
    invoker: str
    tenant: str
    call: Call


class TakeoverStore:
    """`client` is gateway.store.Store's."""

    def __init__(self, client: Any) -> None:
        self._silent = script(client, "silent")
        self._left = script(client, "left")
        self._take_over = script(client, "take_over")

    async def streams(self) -> list[Stream]:
        """All that there are. Raises Unavailable."""
        with translated():
            flat = await self._silent(
                keys=[keys.STREAMS, keys.INVOKERS], args=[keys.calls(""), ALIVE_EVERY_MS, FORGET_AFTER_MS]
            )
        return [
            Stream(invoker.decode(), mark.decode(), calls)
            for invoker, mark, calls in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]

    async def left(self, invoker: str, after: str, count: int) -> list[Left]:
        """About `count` entries behind the one with id `after` ("": from the first). Raises Unavailable."""
        with translated():
            flat = await self._left(keys=[keys.calls(invoker)], args=[keys.GROUP, f"({after}" if after else "-", count])
        return [
            Left(entry.decode(), packed, given == b"1")
            for entry, packed, given in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]

    async def take_over(self, silent: Stream, batch: Sequence[Taken]) -> bool:
        """Move these, but those that somebody else has moved; False: the invoker is there again. Raises Unavailable."""
        names = [keys.INVOKERS, keys.calls(silent.invoker)]
        values: list[str | bytes] = [silent.invoker, silent.mark, keys.GROUP]
        for one in batch:
            names += (keys.calls(one.invoker), keys.backlog(one.tenant))
            values += (one.left.entry, one.call.invocation, "1" if one.left.given else "0", wire.pack(one.call))
        with translated():
            return int(await self._take_over(keys=names, args=values)) >= 0
