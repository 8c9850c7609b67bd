"""Provisioned capacity: what is kept ready of a revision (`min_instances`), called or not, and the records of it.

Looked at a few times a second, so no call pays for it: an instance counts while it is there and ready, a frozen one
too, up to as many as are to be kept; it is idle while it has no call. One record for each revision and minute; a crash
loses the minute that runs, which is then not billed. Batches are numbered, and Redis takes each number once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jiffy.contract import spec
from jiffy.contract.clock import Clock
from jiffy.contract.errors import PlatformError, Unavailable
from jiffy.contract.messages import Provision, Revision

log = logging.getLogger(__name__)

LOOK_S = 0.25
GAP_MAX_US = 2_000_000  # between two looks: nobody knows what was there in a longer one, so it is not billed
WRITE_S = 2.0
MINUTE_US = 60_000_000
BATCH_MAX = 256
KEPT_MAX = 100_000  # records while Redis is away, about 50 MB: the oldest are then given up


class Kept(Protocol):
    """One revision's instances: RevisionPool."""

    revision: Revision
    floor: int  # how many are to be ready
    running: int
    starting: int

    @property
    def instances(self) -> int: ...


class Board(Protocol):
    """Where records go: store.Store. Raises Unavailable (send the batch again) or PlatformError (never)."""

    async def provision(self, process: str, number: int, batch: Sequence[Provision]) -> None: ...


@dataclass(slots=True)
class Account:
    """One revision's minute."""

    revision: Revision
    minute: int
    looked_us: int
    provisioned_us: int = 0
    idle_us: int = 0


class Provisioning:
    """See the module. `kept` tells which revisions have instances that are to be ready."""

    def __init__(self, board: Board, invoker: str, clock: Clock, kept: Callable[[], Iterable[Kept]]) -> None:
        self._board = board
        self._invoker = invoker
        self._clock = clock
        self._kept = kept
        self._process = uuid.uuid4().hex
        self._number = 0
        self._accounts: dict[tuple[str, str, int], Account] = {}
        self._records: deque[Provision] = deque(maxlen=KEPT_MAX)
        self._sending = asyncio.Lock()
        self._batch: list[Provision] = []  # that may have been written already: sent again, it is the same

    def look(self) -> None:
        """Count what has passed since the last look, by what there is now."""
        now_us, minute = self._clock.monotonic_us(), self._clock() // MINUTE_US
        before, self._accounts = self._accounts, {}
        for pool in self._kept():
            revision = pool.revision
            key = revision.tenant, revision.function, revision.number
            account = before.pop(key, None) or Account(revision, minute, now_us)
            ready = max(0, min(pool.floor, pool.instances - pool.starting))
            passed_us, account.looked_us = min(GAP_MAX_US, now_us - account.looked_us), now_us
            account.provisioned_us += passed_us * ready
            account.idle_us += passed_us * max(0, ready - pool.running)
            if account.minute != minute:
                self._close(account)
                account = Account(revision, minute, now_us)
            self._accounts[key] = account
        for account in before.values():  # no longer kept ready
            self._close(account)

    def _close(self, account: Account) -> None:
        if account.provisioned_us < 1000:
            return
        revision = account.revision
        record = Provision(
            *(str(uuid.uuid4()), revision.tenant, revision.function, revision.number, self._invoker),
            *(account.minute * 60_000, account.provisioned_us // 1000, account.idle_us // 1000),
            *(revision.memory_mb, revision.runtime, spec.tags_text(revision.spec.get("tags", {}))),
        )
        self._records.append(record)

    async def count(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    async def write(self) -> None:
        """Write complete minutes until cancelled."""
        while True:
            await asyncio.sleep(WRITE_S)
            with contextlib.suppress(Unavailable):  # the heartbeat says so
                await self.send()

    async def finish(self) -> None:
        """Write the minute that runs as well: this process ends, and its instances with it."""
        self.look()
        for account in self._accounts.values():
            self._close(account)
        self._accounts = {}
        with contextlib.suppress(Unavailable):
            await self.send()

    async def send(self) -> None:
        """Write what is complete. Raises Unavailable; nothing is lost then."""
        async with self._sending:
            while self._batch or self._records:
                if not self._batch:
                    self._batch = [self._records.popleft() for _ in range(min(BATCH_MAX, len(self._records)))]
                    self._number += 1
                try:
                    await self._board.provision(self._process, self._number, self._batch)
                except Unavailable:
                    raise
                except PlatformError as exc:
                    log.error("%d records of provisioned capacity are given up: %s", len(self._batch), exc.message)
                self._batch = []
