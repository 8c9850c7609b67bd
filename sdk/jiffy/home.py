"""A platform's data folder: made, checked and locked, so that only one `jiffy up` uses it at a time.

What lies where in it is `jiffy.contract.layout`'s business. Its errors are `Unavailable` with one line for people.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from .contract import endings, layout
from .contract.errors import Unavailable

LOCK = "lock"
LOGS = "logs"
LOOK_S = 0.05


def default() -> Path:
    """Where data goes when nobody says: the user's data folder."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "jiffy"


class Home:
    """The folder while we hold its lock. `lock_fd` is inherited by every child: the lock ends with the last of them."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Takes the folder; waits only for processes that a killed supervisor left behind. Raises Unavailable."""
        self.path = path.absolute()
        try:
            # Sandboxes' users must get through it, and need see nothing. One that is there stays as it is.
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            for name in (layout.RUN, layout.VALKEY, LOGS):
                (self.path / name).mkdir(mode=0o755 if name == layout.RUN else 0o700, exist_ok=True)
            self.lock_fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise Unavailable(f"can't use {self.path} as data folder: {exc.strerror}; choose one with --data") from exc
        try:
            self._lock(say)
        except BaseException:
            os.close(self.lock_fd)
            raise

    @property
    def run(self) -> Path:
        return self.path / layout.RUN

    @property
    def valkey(self) -> Path:
        return self.path / layout.VALKEY

    def log(self, name: str) -> Path:
        return self.path / LOGS / f"{name}.log"

    def close(self) -> None:
        os.close(self.lock_fd)

    def _lock(self, say: Callable[[str], None]) -> None:
        give_up, told = time.monotonic() + endings.ORPHANS_S, False
        while not self._try_lock():
            holder = self._holder()
            if _alive(holder) or time.monotonic() > give_up:
                raise Unavailable(f"{self.path} is in use by another `jiffy up` (process {holder}); use another --data")
            if not told:
                say("waiting for the processes of an earlier `jiffy up` to end")
                told = True
            time.sleep(LOOK_S)
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, str(os.getpid()).encode(), 0)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _holder(self) -> int:
        text = os.pread(self.lock_fd, 20, 0)
        return int(text) if text.isdigit() else 0


def _alive(pid: int) -> bool:
    """Does the process run? A zombie does not: it only waits for its parent to look."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] != b"Z"
