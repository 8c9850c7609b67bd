"""Ended attempts on their way to Redis: gathered while a batch is in flight, resent until it got through.

Nothing that ended is ever lost while this process lives: a batch whose answer did not come, or that the server could
not take just then, is sent again, and the script's fence (scripts/complete.lua) makes the second time harmless. Only
what the server refuses for a reason of its own is given up. How a batch is sent is store.py's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from jiffy.contract.errors import PlatformError, Unavailable

log = logging.getLogger(__name__)

BATCH_MAX = 256  # items in one script call: about 3 ms in which the server does nothing else
BATCH_MAX_BYTES = 8 * 1024 * 1024
AGAIN_FIRST_S, AGAIN_MAX_S = 0.02, 1.0
REFUSED_TRIES = 3  # an item that the server refuses by itself, for a reason of its own, is then given up


class Fate(NamedTuple):
    """What follows the end of an asynchronous attempt: see scripts/complete.lua."""

    invocation: str
    tenant: str
    state: str  # State: DONE, DEAD or QUEUED
    moment_ms: int  # QUEUED: when it is due; DEAD: now
    call: bytes  # QUEUED: the next attempt; DEAD: the last one
    letter: bytes  # DEAD: DeadLetter
    payload_bytes: int
    keep_s: int  # how long its record is kept
    delivery_id: str = ""  # DONE, DEAD: what its destination is told, if it has one
    delivery: bytes = b""  # Delivery
    alike: str = ""  # DONE, DEAD: the digest of its revision, if a call like it may follow it here
    line: str = ""  # DONE, DEAD: keys.line, if it has an order key


class Spends(NamedTuple):
    """What an ended attempt takes from the budgets that it is under: contract/spending.py."""

    keys: tuple[str, ...]
    cost: int
    returned: int  # what was held for it, negative; 0: nothing was
    slot: str  # the field where it was held
    places: tuple[str, ...] = ()  # that it had, and gives back


class Completion(NamedTuple):
    """One item of scripts/complete.lua, which documents each field."""

    entry: bytes
    answers_key: str
    logs_key: str
    record_key: str
    note: bool
    answer: bytes
    usage: bytes
    record: bytes
    logs: tuple[bytes, ...]
    fate: Fate | None = None
    spends: Spends | None = None
    tenant: str = ""  # whose record it is


Send = Callable[[list[Completion]], Awaitable[None]]  # raises Unavailable (send it again), or PlatformError (never)


class Completions:
    """`written` is told each batch that got through, `given_up` each item that never will."""

    def __init__(
        self, send: Send, written: Callable[[list[Completion]], None], given_up: Callable[[Completion], None]
    ) -> None:
        self._send = send
        self._written = written
        self._given_up = given_up
        self._items: deque[Completion] = deque()
        self._wake: asyncio.Future[None] | None = None

    def add(self, item: Completion) -> None:
        self._items.append(item)
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None

    async def run(self) -> None:
        """Send until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._items:
                self._wake = loop.create_future()
                await self._wake
            await self._deliver(self._take())

    def _take(self) -> list[Completion]:
        items = self._items
        if len(items) == 1:
            return [items.popleft()]
        batch: list[Completion] = []
        size = 0
        while items and len(batch) < BATCH_MAX and size < BATCH_MAX_BYTES:
            item = items.popleft()
            batch.append(item)
            size += len(item.answer) + len(item.record) + (len(item.fate.call) if item.fate else 0)
        return batch

    async def _deliver(self, batch: list[Completion]) -> None:
        pause, refused = AGAIN_FIRST_S, 0
        while True:
            try:
                await self._send(batch)
                self._written(batch)
                return
            except Unavailable:
                pass
            except PlatformError as exc:
                if len(batch) > 1:  # find the one that is refused
                    for item in batch:
                        await self._deliver([item])
                    return
                refused += 1
                if refused == REFUSED_TRIES or batch[0].note:
                    log.error("entry %r can't be completed: %s", batch[0].entry, exc.message)
                    self._given_up(batch[0])
                    return
            await asyncio.sleep(pause)
            pause = min(AGAIN_MAX_S, pause * 2)
