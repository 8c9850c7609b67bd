"""Child processes of a build, each leading a group that is killed as a whole: on time-out, on failure, at the end.

A builder that must stop calls `close`; builds in other threads then find their children dead and no new ones allowed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jiffy.contract.errors import Unavailable

_OUTPUT_MAX_LINES = 100_000  # of one child; a job on 20,000 files says two lines for each
_OUTPUT_MAX_CHARS = 16 * 1024 * 1024  # … of which that job's have a few hundred each
_LINE_MAX_CHARS = 64 * 1024  # a longer one is told in pieces


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit code (negative: a signal) and what it wrote."""

    code: int
    output: str  # its first 16 MiB, and a line that says so where there was more
    late: bool  # killed because its time was up


class Processes:
    """All children of one builder. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._closed = False

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        timeout_s: float,
        stdin: str = "",
        cwd: Path | None = None,
        say: Callable[[str], None] | None = None,
        fds: tuple[int, ...] = (),
    ) -> Ended:
        """Run `command`; `say` gets each line of its output, standard error included, as it comes;
        `fds` are inherited.

        Raises Unavailable when the builder is stopping.
        """
        process = self._start(command, env, cwd, fds)
        late = threading.Event()
        timer = threading.Timer(timeout_s, self._expire, (process.pid, late))
        timer.start()
        kept, size, dropped = list[str](), 0, 0
        try:
            assert process.stdin is not None and process.stdout is not None
            try:
                with process.stdin as pipe:
                    pipe.write(stdin)
            except BrokenPipeError:
                pass  # it ended without reading; its exit code tells
            while piece := process.stdout.readline(_LINE_MAX_CHARS):
                if dropped or len(kept) >= _OUTPUT_MAX_LINES or size + len(piece) > _OUTPUT_MAX_CHARS:
                    dropped += len(piece)
                else:
                    kept.append(piece)
                    size += len(piece)
                if say is not None:
                    say(piece)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and its id still its own
        finally:
            timer.cancel()
            code = self._end(process)
        with self._lock:
            if self._closed:
                raise Unavailable("the builder is stopping")
        if dropped:
            kept.append(f"\nit wrote too much: {dropped} characters after the first {size} were not kept\n")
        return Ended(code, "".join(kept), late.is_set())

    def _start(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None, fds: tuple[int, ...]
    ) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise Unavailable("the builder is stopping")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                pass_fds=fds,
            )
            self._groups.add(process.pid)
        return process

    def _expire(self, group: int, late: threading.Event) -> None:
        with self._lock:
            if group in self._groups:
                late.set()
                _kill(group)

    def _end(self, process: subprocess.Popen[str]) -> int:
        with self._lock:
            _kill(process.pid)  # whatever it left behind
            self._groups.discard(process.pid)
        if process.stdout is not None:
            process.stdout.close()
        return process.wait()

    def close(self) -> None:
        """Kill all, allow no more."""
        with self._lock:
            self._closed = True
            for group in self._groups:
                _kill(group)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
