"""What the gateway finds wrong with a call that has ended, put into its function's log.

The call's own entries are the invoker's and are there already. A complaint is best effort: it is dropped when the queue
does not answer, when many are under way, or when the log is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.catalog import Function
from jiffy.contract.errors import JiffyError
from jiffy.contract.messages import LogEntry

PENDING_MAX = 64


class Logs(Protocol):
    """`store.Store` is one."""

    async def add_log(self, tenant: str, name: str, entry: LogEntry) -> None: ...


class Complaints:
    """See the module."""

    def __init__(self, logs: Logs, now_ms: Callable[[], int]) -> None:
        self._logs = logs
        self._now_ms = now_ms
        self._pending: set[asyncio.Task[None]] = set()

    def __call__(self, function: Function, invocation: str, attempt: int, error: str) -> None:
        """`error` is "Type: message"."""
        if len(self._pending) >= PENDING_MAX:
            return
        text = f"[ERROR] RequestId: {invocation} {error}\n".encode()
        entry = LogEntry(invocation, attempt, function.revision.number, self._now_ms(), False, text, 0)
        task = asyncio.ensure_future(self._add(function, entry))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _add(self, function: Function, entry: LogEntry) -> None:
        try:
            await self._logs.add_log(function.tenant, function.name, entry)
        except JiffyError:
            return
