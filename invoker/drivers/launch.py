"""Starting bubblewrap: its arguments where nobody reads them, and what it says of the child that it made."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path

from .base import START_MAX_S


def start(
    program: Path, uid: int, arguments: list[str], command: tuple[str, ...], inherited: list[int], output: int
) -> subprocess.Popen[bytes]:
    """bubblewrap, as this user of the host (0: as ourselves). Raises OSError."""
    user: dict[str, object] = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    said = os.memfd_create("arguments", os.MFD_CLOEXEC)  # what any user may read of a process has no secrets in it
    try:
        os.write(said, b"".join(os.fsencode(word) + b"\0" for word in arguments))
        os.lseek(said, 0, os.SEEK_SET)
        process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
            [str(program), "--args", str(said), "--", *command],
            pass_fds=(said, *inherited),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={},
            **user,
        )
        return process
    finally:
        os.close(said)


def readable(fd: int) -> bool:
    """Wait until there is something to read, or the end; False after START_MAX_S. Not select: that ends at 1,023."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(START_MAX_S * 1000))


def child_pid(info: int) -> int:
    """What bubblewrap says on --info-fd. Raises ValueError or OSError."""
    said = b""
    while readable(info):
        piece = os.read(info, 4096)
        said += piece
        if not piece or said.rstrip().endswith(b"}"):
            return int(json.loads(said)["child-pid"])
    raise TimeoutError(f"bubblewrap said nothing for {START_MAX_S:g} s")
