"""What the pool needs of its neighbours, and the lease: the right to use one instance for one call.

The protocols say what a sandbox and its instances must offer (sandbox.py does, and the twin in tests), and what a
waiting call must (execute.py's Attempt). Who gets which lease, and when, is revision_pool.py's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jiffy.contract.messages import Revision

from . import policy
from .instance import Pieces
from .refusal import Refusal
from .sandbox import Exit, Loaded, Reply

if TYPE_CHECKING:
    from .figures import Figures
    from .keepalive import KeepAlive
    from .revision_pool import RevisionPool
    from .room import Room
    from .waiting import Totals


class Instance(Protocol):
    """One process that serves one call at a time."""

    on_exit: Callable[[Any], None] | None
    calls: int  # that it was given

    @property
    def log_dropped_bytes(self) -> int: ...
    def call(
        self, meta: dict[str, Any], payload: bytes, timeout_s: float, pieces: Pieces | None = None
    ) -> asyncio.Future[Reply | Exit]: ...
    def credit(self, total: int) -> None: ...
    def cancel(self) -> None: ...
    def held(self, claimed_us: int, measured_us: int, size: int, cpu_us: int, /) -> int: ...
    def read_log(self) -> bytes: ...
    async def close(self) -> None: ...
    def max_memory_bytes(self) -> int: ...
    def cpu_us(self) -> int: ...
    def runnable(self) -> bool: ...


class Sandbox(Protocol):
    """One isolated container: a stem until it is specialised, then one revision's."""

    forks: bool  # can it have more than one instance?
    tenant: str  # whose it is from its start; "": anybody's
    on_closed: Callable[[Any], None] | None

    async def specialise(self, revision: Revision) -> Loaded: ...
    async def fork(self) -> Instance: ...
    async def freeze(self) -> None: ...
    async def thaw(self) -> None: ...
    async def close(self) -> None: ...
    def memory_bytes(self) -> int: ...


class Caller(Protocol):
    """A call that wants a lease. Exactly one of `start` and `refuse` is called, once."""

    entry: bytes  # which one it is, in the stream
    arrived_us: int
    latest_start_us: int
    size: int  # of its payload
    cold: bool  # the pool sets it: this call waited for a new sandbox
    init_us: int  # and for how long
    init_log: bytes  # and what the import printed, for the first call of a sandbox

    def start(self, slot: Slot, now_us: int) -> None: ...
    def refuse(self, refusal: Refusal) -> None: ...


class Host(Protocol):
    """What one revision's pool needs of the whole."""

    closing: bool
    until_us: int
    figures: Figures
    totals: Totals
    keep: policy.Keep
    keepalive: KeepAlive
    room: Room

    def now(self) -> int: ...
    def admit(self, pool: RevisionPool) -> str: ...
    def ended(self, pool: RevisionPool) -> None: ...
    def hungry(self, pool: RevisionPool) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...
    async def stem(self, revision: Revision) -> Sandbox: ...


@dataclass(slots=True, eq=False)
class Box:
    """One sandbox of a revision and what its instances are doing."""

    sandbox: Sandbox
    last_used_us: int
    instances: int = 0  # forks under way included
    busy: int = 0
    asleep: list[Slot] | None = None  # its idle instances while it is frozen; None: awake
    size_mb: float = 0.0  # when it fell asleep
    changing: bool = False  # a freeze or a thaw is under way
    closed: bool = False
    failed_forks: int = 0  # in a row

    @property
    def barren(self) -> bool:
        """It will hardly be forked again; what runs in it may go on."""
        return self.failed_forks >= policy.FORKS_FAILED_MAX

    @property
    def fertile(self) -> bool:
        """Has it room for one more instance?"""
        return self.sandbox.forks and not self.barren and self.instances < policy.INSTANCES_PER_SANDBOX


@dataclass(slots=True, eq=False)
class Slot:
    """One instance, and the lease on it while `busy`."""

    instance: Instance
    box: Box
    pool: RevisionPool
    since_us: int  # since when it is idle, or busy
    busy: bool = False
    dead: bool = False
    dropped_bytes: int = 0  # of its log, up to the last call's end; and
    cpu_us: int = 0  # of its whole life up to the last call's end, so a call's share is a difference

    def starved(self) -> bool:
        """Does its call only wait for a processor? That says nothing of its function, and more instances won't help."""
        if not self.busy or self.instance.cpu_us() - self.cpu_us >= policy.STALL_US:
            return False
        return self.instance.runnable()

    def exited(self, _: object) -> None:
        """The instance ended outside a call."""
        if not self.busy:
            self.pool.lost(self)
