"""Answers whose gateway died before it could pass them on: any other keeps them, to be asked for by invocation.

Their callers saw a closed connection; which calls theirs were, the log and the bill say. Every gateway looks, and says
in the same step that it is there itself (scripts/orphans.lua).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from jiffy.contract.errors import JiffyError

LOOK_S = 1.0
TAKE_MAX = 64  # answers in one step: each may have 6 MiB


class Answers(Protocol):
    """Where answers wait; `store.DurableStore` is one. Raises Unavailable."""

    async def keep_orphans(self, gateway: str, most: int) -> int: ...


class Orphans:
    """`gateway`: the name under which answers come to this one."""

    def __init__(self, answers: Answers, gateway: str) -> None:
        self._answers = answers
        self._gateway = gateway

    async def watch(self) -> None:
        """Look again and again, for as long as the gateway runs."""
        while True:
            try:
                while await self._answers.keep_orphans(self._gateway, TAKE_MAX) == TAKE_MAX:
                    pass
            except JiffyError:
                pass  # the next look says the same
            await asyncio.sleep(LOOK_S)
