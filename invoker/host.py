"""This machine: its name, its memory, how many files a process may open, and the name under which it invokes.

What to make of them is policy.py's business.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

from jiffy.contract import layout, limits
from jiffy.contract.errors import Unavailable

from .hierarchy import memory_bounds
from .pool import Memory

FILES_PER_INSTANCE = 8  # its two connections, its pid, its cgroup's counters
FILES_OF_OURS = 512
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def name() -> str:
    return socket.gethostname()


def memory() -> Memory:
    """What the kernel could give to new processes: of the host's, and of what the control groups around us allow."""
    values = {}
    with Path("/proc/meminfo").open("rb") as file:
        for line in file:
            key, _, rest = line.partition(b":")
            if key in (b"MemTotal", b"MemAvailable"):
                values[key] = int(rest.split()[0]) // 1024
                if len(values) == 2:
                    break
    total_mb, free_mb = values[b"MemTotal"], values[b"MemAvailable"]
    for bound in memory_bounds():
        total_mb = min(total_mb, bound.limit_bytes // limits.MIB)
        free_mb = min(free_mb, max(0, bound.limit_bytes - bound.used_bytes) // limits.MIB)
    return Memory(total_mb, free_mb)


def instances_max() -> int:
    """How many instances this process has open files for; it raises its own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return limits.INSTANCES_MAX
    return max(1, min(limits.INSTANCES_MAX, (hard - FILES_OF_OURS) // FILES_PER_INSTANCE))


def holder(data: Path) -> str:
    """Who we are among those that want our name: whoever works in this folder is started again, one after the other."""
    return f"{name()}:{data.resolve()}"


@contextlib.contextmanager
def alone(data: Path, invoker: str) -> Iterator[None]:
    """Hold the name `invoker` in this data folder. Raises Unavailable when another process does.

    Two of one name would complete each other's calls, and each would tear down the other's sandboxes at its start.
    """
    fd = os.open(layout.lock(data, f"invoker-{invoker}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise Unavailable(
            f"an invoker named {invoker} works in {data} already; give this one a --data or an --id of its own"
        ) from exc
    finally:
        os.close(fd)


def layer_store(data: Path) -> str:
    """The id of the layer store in this data folder; made when there is none. Raises Unavailable."""
    path = layout.layer_store_id(data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fresh = path.with_name(f".id-{os.urandom(8).hex()}")
            fresh.write_text(fresh.name.removeprefix(".id-") + "\n")
            with contextlib.suppress(FileExistsError):  # a builder was first
                path.hardlink_to(fresh)
            fresh.unlink()
        return path.read_text().strip()
    except OSError as exc:
        raise Unavailable(f"the layers in {data} can't be used: {exc.strerror or exc}") from exc


def invoker_id(data: Path, given: str | None) -> str:
    """The name of this host's invoker, kept in the data folder, so that a restart finds its own queue.

    Raises Unavailable when the folder can't be written.
    """
    path = data / layout.INVOKER_ID
    try:
        data.mkdir(parents=True, exist_ok=True)
        kept = path.read_text().strip() if path.exists() else ""
        chosen = given or kept or f"inv-{os.urandom(4).hex()}"
        if not _ID.fullmatch(chosen):
            raise Unavailable(f"{chosen!r} can't name an invoker: use letters, digits, dots and hyphens")
        if chosen != kept:
            fresh = path.with_suffix(".new")
            fresh.write_text(chosen + "\n")
            fresh.replace(path)
    except OSError as exc:
        raise Unavailable(f"the data folder {data} can't be used: {exc.strerror or exc}") from exc
    return chosen
