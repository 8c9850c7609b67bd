"""A cold start: a stem becomes one revision's sandbox with its first instance.

We try twice before we fail a call; a function that can't be imported is its author's failure, told at once. What the
calls that wait for it are told, and when to start one, is revision_pool.py's business.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from jiffy.contract.errors import JiffyError, PlatformError, SandboxFailed
from jiffy.contract.messages import Outcome, Revision

from .figures import Phases
from .lease import Box, Instance, Sandbox
from .refusal import Refusal, platform

log = logging.getLogger(__name__)

STOPPING = "the invoker is stopping"


class Source(Protocol):
    """Where stems come from."""

    closing: bool

    def now(self) -> int: ...
    async def stem(self, revision: Revision) -> Sandbox: ...


class Opened(NamedTuple):
    box: Box
    instance: Instance
    log: bytes  # what the import printed
    phases: Phases


class ColdStart:
    """One; `ended` is called when its sandbox ends, whenever that is."""

    def __init__(self, revision: Revision, source: Source, ended: Callable[[Box], None]) -> None:
        self._revision = revision
        self._source = source
        self._ended = ended
        self._box: Box | None = None
        self._cancelled = False

    async def run(self) -> Opened | Refusal:
        """What came of it."""
        try:
            return await self._surely()
        except PlatformError as exc:
            log.warning("cold start of %s failed: %s", self._revision.function, exc.message)
            if self._source.closing:
                return platform(exc.message)
        try:
            return await self._surely()
        except PlatformError as exc:
            log.error("cold start of %s failed again: %s", self._revision.function, exc.message)
            return platform(exc.message)

    async def _surely(self) -> Opened | Refusal:
        """As `_once`; a fault of our own is one more way in which a sandbox fails: who waits must hear of it."""
        try:
            return await self._once()
        except PlatformError:
            raise
        except Exception as exc:
            log.exception("a fault in the cold start of %s", self._revision.function)
            raise SandboxFailed(f"a fault of the invoker: {exc!r}") from exc

    async def _once(self) -> Opened | Refusal:
        began_us = self._source.now()
        sandbox = await self._source.stem(self._revision)
        stem_us = self._source.now()
        box = self._box = Box(sandbox, self._source.now(), instances=1)
        sandbox.on_closed = lambda _: self._ended(box)
        try:
            self._check(box)
            loaded = await sandbox.specialise(self._revision)
            if loaded.error is not None:
                await quietly(sandbox.close())
                return Refusal(Outcome.ERROR, loaded.error, log=loaded.log)
            loaded_us = self._source.now()
            instance = await sandbox.fork()
            self._check(box)
        except Exception:
            await quietly(sandbox.close())
            raise
        phases = Phases(
            stem_us=stem_us - began_us,
            specialise_us=max(0, loaded_us - stem_us - loaded.import_us),
            import_us=loaded.import_us,
            fork_us=self._source.now() - loaded_us,
        )
        return Opened(box, instance, loaded.log, phases)

    def _check(self, box: Box) -> None:
        if box.closed or self._cancelled:
            raise SandboxFailed(STOPPING if self._cancelled else "the sandbox ended while it started")

    async def cancel(self) -> None:
        """Give up, and end the sandbox if there is one yet."""
        self._cancelled = True
        if self._box is not None:
            await quietly(self._box.sandbox.close())


def fault(exc: Exception) -> Exception | None:
    """What to show the trace of: an error that nobody foresaw."""
    return None if isinstance(exc, JiffyError) else exc


async def quietly(work: Awaitable[None]) -> None:
    """Wait for what may fail without consequence for any call; a sandbox that can't be kept in order ends itself."""
    try:
        await work
    except (JiffyError, OSError) as exc:
        log.warning("%s", exc)
