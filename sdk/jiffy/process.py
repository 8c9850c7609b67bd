"""One process of the platform under its supervisor: started, its words kept in a log, ended in time.

When to start it again is `pause`, a pure function of its deaths; the story of all of them together is in supervisor.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

DEATHS_MAX = 6  # within DEATHS_WITHIN_S: what dies that often has a reason that a restart doesn't mend
DEATHS_WITHIN_S = 60.0
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 5.0
LOG_MAX_BYTES = 10 * 1024 * 1024  # a larger log is put aside as NAME.log.old at the next start
TAIL_BYTES, TAIL_LINES = 4096, 10


class Command(NamedTuple):
    """What to run. `argv` is what `jiffy.child` gets after the parent's pid."""

    name: str
    argv: Sequence[str]
    log: Path | None  # None: its words go to our own stderr
    fds: tuple[int, ...] = ()  # inherited
    secrets: Mapping[str, str] = {}  # environment that only this process gets


def pause(deaths: Sequence[float], now: float) -> float | None:
    """Seconds to wait before the next start of what died at `deaths`; None: give it up."""
    recent = sum(1 for at in deaths if at > now - DEATHS_WITHIN_S)
    if recent >= DEATHS_MAX:
        return None
    return float(min(PAUSE_FIRST_S * 2 ** max(0, recent - 1), PAUSE_MAX_S))


class Process:
    """A running child."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process, log_from: int) -> None:
        self._command = command
        self._process = process
        self._log_from = log_from

    @classmethod
    async def start(cls, command: Command, env: Mapping[str, str], cwd: Path) -> Process:
        """Raises OSError. `-P`: a user's own builder.py in the current folder must not become our builder."""
        with contextlib.ExitStack() as stack:
            errors, log_from = None, 0
            if command.log is not None:
                if command.log.exists() and command.log.stat().st_size > LOG_MAX_BYTES:
                    command.log.replace(command.log.with_suffix(".log.old"))
                errors = stack.enter_context(command.log.open("ab"))
                log_from = errors.tell()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "jiffy.child", str(os.getpid()), *command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env={**env, **command.secrets},
                cwd=cwd,
                pass_fds=command.fds,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then ends us in order
            )
        return cls(command, process, log_from)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        return await self._process.wait()

    async def end(self, within_s: float) -> bool:
        """SIGTERM, and SIGKILL where that is not enough. Did SIGTERM do?"""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), within_s)
            return True
        except TimeoutError:
            self.kill()
            await self._process.wait()
            return False

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def last_words(self) -> str:
        """The last lines that it wrote in this run; "" when they went to our own stderr."""
        if self._command.log is None:
            return ""
        try:
            with self._command.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_from, size - TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


def how(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
