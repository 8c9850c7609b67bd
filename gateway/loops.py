"""The loops that run for as long as the gateway does: started together, watched, ended together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

CANCEL_AGAIN_S = 0.5  # before Python 3.12, asyncio.wait_for (in redis-py's writes) may swallow a cancellation

Loop = Callable[[], Coroutine[Any, Any, None]]
log = logging.getLogger("jiffy.gateway")


class Loops:
    """Background tasks. One that ends by itself is a bug: it is logged, and `failed` is set to end the process."""

    def __init__(self, *loops: Loop) -> None:
        self.failed = asyncio.Event()
        self._loops = loops
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for loop in self._loops:
            task = asyncio.create_task(loop(), name=loop.__qualname__)
            task.add_done_callback(self._ended)
            self._tasks.add(task)

    async def stop(self) -> None:
        """Cancel all, and come back when they have ended."""
        pending = self._tasks
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self.failed.set()
