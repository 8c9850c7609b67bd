"""A cold start: a stem becomes one revision's sandbox with its first instance.

We try twice before we fail a call. From the moment a sandbox has its function, whatever goes wrong is the function's
failure: told at once, and its time is billed, or code that breaks its own start would compute for nothing. What the
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
from .refusal import Refusal, ending_in, error_json, platform

log = logging.getLogger(__name__)

UNBILLED_US = 1_000_000  # a start that fails sooner costs one step, however many of these a busy host made of it
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
        self._given_us = 0  # when the sandbox got the function
        self._told_us = 0  # how much of the time since then calls were told to pay

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
            self._given_us, self._told_us = self._source.now(), 0
            loaded = await sandbox.specialise(self._revision)
            if loaded.error is not None:
                await quietly(sandbox.close())
                return self._failed(loaded.error, loaded.log)
            loaded_us = self._source.now()
            came = await self._first(box, loaded.log)
        except Exception:
            await quietly(sandbox.close())
            raise
        if isinstance(came, Refusal):
            await quietly(sandbox.close())
            return came
        phases = Phases(
            stem_us=stem_us - began_us,
            specialise_us=max(0, loaded_us - stem_us - loaded.import_us),
            import_us=loaded.import_us,
            fork_us=self._source.now() - loaded_us,
        )
        return Opened(box, came, loaded.log, phases)

    async def _first(self, box: Box, text: bytes) -> Instance | Refusal:
        """The first instance. That there is none is the function's doing, unless we end ourselves."""
        try:
            instance = await box.sandbox.fork()
            self._check(box)
            return instance
        except PlatformError as exc:
            if self._cancelled or self._source.closing:
                raise
            log.warning("%s was imported, and then could not be started: %s", self._revision.function, exc.message)
            why = f"the function was imported, but no instance of it could be started: {exc.message}"
            error = error_json("Runtime.StartError", why)
            return self._failed(error, ending_in(error, text))

    def _failed(self, error: bytes, text: bytes) -> Refusal:
        return Refusal(Outcome.ERROR, error, log=text, used_us=self._unpaid_us())

    def late(self) -> Refusal | None:
        """What a call is told that can wait no longer, if it was the function that took the time."""
        used_us = self._source.now() - self._given_us if self._given_us else 0
        if used_us < UNBILLED_US:
            return None
        text = f"the function was still starting after {used_us / 1e6:.2f} seconds"
        error = error_json("Sandbox.Timedout", text)
        return Refusal(Outcome.ERROR, error, init_us=used_us, log=ending_in(error), used_us=self._unpaid_us())

    def _unpaid_us(self) -> int:
        """How long the function has held the sandbox and no call was told to pay yet; from now on it was told."""
        used_us = self._source.now() - self._given_us
        unpaid_us, self._told_us = used_us - self._told_us, used_us
        return unpaid_us if used_us >= UNBILLED_US else 0

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
