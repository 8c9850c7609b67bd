"""The name under which this builder takes builds, and that nobody else has.

Builders that share a queue are told apart by it, and after a restart one finds again what it had taken: so it is kept
in the data folder, and only one process at a time may use it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jiffy.contract import layout
from jiffy.contract.errors import Unavailable


def builder_id(data: Path, given: str | None) -> str:
    """The name given, or the one that is kept, or a new one: the host's name with something that is only ours."""
    if given:
        return given
    path = data / layout.BUILDER_ID
    kept = path.read_text().strip() if path.exists() else ""
    if not kept:
        data.mkdir(parents=True, exist_ok=True)
        kept = f"{socket.gethostname()}-{os.urandom(4).hex()}"
        path.with_suffix(".new").write_text(kept + "\n")
        path.with_suffix(".new").replace(path)
    return kept


@contextmanager
def alone(data: Path, name: str) -> Iterator[None]:
    """Hold the name. Raises Unavailable when another process does."""
    data.mkdir(parents=True, exist_ok=True)
    fd = os.open(layout.lock(data, f"builder-{name}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise Unavailable(
            f"a builder named {name} works in {data} already; give this one a --data or a --name of its own"
        ) from exc
    finally:
        os.close(fd)
