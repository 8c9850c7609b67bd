"""The one instance that a program is (program.py): it serves one call at a time, with the same ends as instance.py's.

Its durations are ours: from handing an event out to having the whole answer. What is said meanwhile: runtime_api.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from jiffy.contract.messages import Revision

from .cgroups import Cell
from .channel import Log
from .instance import STATUS_MAX_S, Exit, Pieces, Reply
from .runtime_api import Event


class Api(Protocol):
    """How its program gets an event: runtime_api.py or http_server.py."""

    def hand_out(self, event: Event, /) -> None: ...


class Home(Protocol):
    """What it asks of its sandbox."""

    revision: Revision | None

    def kill(self) -> None: ...
    async def close(self) -> None: ...


class Client:
    """The instance that such a program is. `on_exit` is called once, after the call's future (if any) is resolved."""

    def __init__(self, sandbox: Home, api: Api, cell: Cell | None, printed: Log, pid: int) -> None:
        self.pid = pid
        self.calls = 0
        self.on_exit: Callable[[Any], None] | None = None
        self.sandbox = sandbox
        self._api = api
        self._cell = cell
        self._printed = printed
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Reply | Exit] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began_ns = self._taken_ns = 0
        self._fate = ""  # why we killed it
        self._exit: Exit | None = None

    def call(
        self, meta: dict[str, Any], payload: bytes, timeout_s: float, pieces: Pieces | None = None
    ) -> asyncio.Future[Reply | Exit]:
        """As Instance.call; programs answer whole."""
        future: asyncio.Future[Reply | Exit] = self._loop.create_future()
        if self._exit is not None:
            future.set_result(self._exit)
            return future
        assert self._future is None, "one call at a time"
        self._future = future
        self.calls += 1
        self._began_ns = self._taken_ns = time.monotonic_ns()
        self._timer = self._loop.call_later(timeout_s, self._late)
        deadline_ms = int((time.time() + timeout_s) * 1000)
        self._api.hand_out(Event(meta["id"], payload, deadline_ms, arn(self.sandbox.revision)))
        return future

    def taken(self) -> None:
        self._taken_ns = time.monotonic_ns()

    def answered(self, ok: bool, payload: bytes, *, last: bool) -> None:
        future, self._future = self._future, None
        if self._timer is not None:
            self._timer.cancel()
        if future is not None and not future.done():
            future.set_result(Reply(ok, payload, (time.monotonic_ns() - self._taken_ns) // 1000, last))

    def held(self, claimed_us: int, _measured_us: int, _size: int, _cpu_us: int) -> int:
        """Its duration is ours: nobody claimed anything."""
        return claimed_us

    def credit(self, total: int) -> None:
        """Nothing comes piece by piece."""

    def cancel(self) -> None:
        """See `credit`."""

    # --- the end ----------------------------------------------------------------------------------------------
    def _late(self) -> None:
        self._fate = "timeout"
        self._condemn()

    def misused(self) -> None:
        """It is told as one that ended its connection, not as one that a signal ended."""
        self._fate = self._fate or "closed"
        self._condemn()

    def _condemn(self) -> None:
        self.sandbox.kill()
        self._loop.call_later(STATUS_MAX_S, self.exited, Exit("closed", 0, 0))

    def exited(self, end: Exit) -> None:
        """Its process is gone, or as good as gone. Only the first word counts."""
        if self._exit is not None:
            return
        spent_us = (time.monotonic_ns() - self._began_ns) // 1000
        self._exit = end._replace(reason=self._fate or end.reason, duration_us=spent_us)
        if self._timer is not None:
            self._timer.cancel()
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(self._exit)
        if self._cell is not None:
            self._cell.remove()
        self._loop.call_soon(self._announce)

    def _announce(self) -> None:
        if self.on_exit is not None:
            self.on_exit(self)

    async def close(self) -> None:
        """End it, and its sandbox with it."""
        if self._future is not None:
            self._fate = self._fate or "closed"
        await self.sandbox.close()

    # --- what it printed and used -----------------------------------------------------------------------------
    def read_log(self) -> bytes:
        return self._printed.read()

    @property
    def log_dropped_bytes(self) -> int:
        return self._printed.dropped_bytes

    def max_memory_bytes(self) -> int:
        return 0 if self._cell is None else self._cell.max_memory_bytes()

    def cpu_us(self) -> int:
        return 0 if self._cell is None else self._cell.cpu_us()

    def runnable(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"
        return False


def arn(revision: Revision | None) -> str:
    return "" if revision is None else f"urn:jiffy:{revision.tenant}:function:{revision.function}:{revision.number}"
