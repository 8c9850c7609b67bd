"""Files and folders of control groups: reading, writing, and removing them with all that lives in them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

log = logging.getLogger(__name__)


def remove(folder: Path) -> None:
    """Kill all processes of a group and its children, and remove them."""
    if not folder.is_dir():
        return
    for child in children(folder):
        remove(child)
    for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (folder / name).exists():
            write(folder / name, value, missing_ok=True)
    for _ in range(200):
        kill(folder)
        if rmdir(folder):
            return
        time.sleep(0.002)  # the kernel takes a moment to bury them
    log.warning("control group %s can't be removed", folder)


def children(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def kill(folder: Path) -> None:
    for pid in read(folder / "cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def oom_kills(text: str) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def write(path: Path, value: str, *, missing_ok: bool = False) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError:
        if not missing_ok:
            raise
        return False
    return True
