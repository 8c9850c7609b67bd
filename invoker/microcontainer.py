"""What every microcontainer's life has in common: its states and the moves between them, freezing, thawing, the end.

sandbox.py's has an agent in it and is forked into instances; program.py's runs one program, which is its only instance.
When any of this should happen is the pool's to say.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from jiffy.contract.errors import PlatformError, SandboxFailed
from jiffy.contract.messages import Revision

from .cgroups import Group

log = logging.getLogger(__name__)

FREEZE_STEP_S, FREEZE_STEP_MAX_S = 0.001, 0.05
FREEZE_MAX_S = 2.0  # a process deep in the kernel stops late; one that never does is there to run unpaid
FOLDERS = {"deps": "deps", "code": "task"}  # a layer's kind → which folder of the sandbox it fills


class State(Enum):
    STARTING = "starting"
    STEM = "stem"  # the agent answers; no function yet
    LOADING = "loading"
    READY = "ready"
    FROZEN = "frozen"
    CLOSED = "closed"


MOVES: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.STEM, State.CLOSED}),
    State.STEM: frozenset({State.LOADING, State.CLOSED}),
    State.LOADING: frozenset({State.READY, State.CLOSED}),
    State.READY: frozenset({State.FROZEN, State.CLOSED}),
    State.FROZEN: frozenset({State.READY, State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Loaded(NamedTuple):
    """How the import of a function went."""

    import_us: int
    error: bytes | None  # error JSON: the function's own failure
    log: bytes  # what it printed meanwhile, and our own word where the error is ours


class Microcontainer(ABC):
    """See the module. `on_closed` is called once, whatever the reason."""

    forks: bool  # can it have more than one instance?

    def __init__(self, sandbox_id: str, data: Path, runtime: str, *, network: bool) -> None:
        self.id = sandbox_id
        self.runtime = runtime
        self.network = network
        self.tenant = ""  # whose it is from its start; "": anybody's
        self.state = State.STARTING
        self.revision: Revision | None = None
        self.on_closed: Callable[[Any], None] | None = None
        self._data = data
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def _group(self) -> Group | None:
        """Its control groups, where there are any."""

    @abstractmethod
    def _abandon(self) -> None:
        """It ends: tell its instances."""

    @abstractmethod
    async def _end(self) -> str:
        """Kill it and remove every trace; what its start-up wrote as errors."""

    def _move(self, state: State) -> None:
        if state not in MOVES[self.state]:
            raise SandboxFailed(f"sandbox {self.id} is {self.state.value}: it can't become {state.value}")
        self.state = state

    async def freeze(self) -> None:
        """Stop all its processes where they are, or end it. Does nothing where control groups can't be written.

        Until all have stopped it stays asked for: thawing what would not stop would let it compute between calls.
        """
        group = self._group
        if group is None or self.state is not State.READY:
            return
        self._move(State.FROZEN)
        end, step = self._loop.time() + FREEZE_MAX_S, FREEZE_STEP_S
        try:
            while not group.freeze():
                if self._loop.time() > end:
                    log.warning("sandbox %s would not freeze: it is ended", self.id)
                    self._close_soon()
                    return
                await asyncio.sleep(step)
                step = min(step * 1.2, FREEZE_STEP_MAX_S)
                if not self._frozen():  # thawed or closed meanwhile
                    return
        except OSError as exc:
            log.warning("sandbox %s can't be frozen: %s", self.id, exc)
            self._thaw()

    def _frozen(self) -> bool:
        return self.state is State.FROZEN

    async def thaw(self) -> None:
        """Let its processes go on."""
        self._thaw()

    def _thaw(self) -> None:
        if self.state is State.FROZEN and self._group is not None:
            self._group.thaw()
            self._move(State.READY)

    def memory_bytes(self) -> int:
        """What all its processes use now; 0 where control groups can't be read."""
        return 0 if self._group is None or self.state is State.CLOSED else self._group.memory_bytes()

    # --- the end ----------------------------------------------------------------------------------------------
    async def close(self) -> None:
        """Kill it and remove every trace. Returns when that is done, however often it is called."""
        await asyncio.shield(self._close_soon())

    def _close_soon(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._thaw()
            self._move(State.CLOSED)
            self._closing = self._loop.create_task(self._finish())
        return self._closing

    async def _finish(self) -> None:
        try:
            self._abandon()
            await self._end()
        except (OSError, PlatformError) as exc:
            log.warning("sandbox %s could not be removed: %s", self.id, exc)
        finally:
            if self.on_closed is not None:
                self.on_closed(self)
