"""A small disk of one's own (a tmpfs), to be filled to the last byte. Root only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

MB = 512  # of memory, as far as it is used
_BLOCK = bytes(1024 * 1024)


class Disk:
    """What is mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, on: bool) -> None:
        """There is no byte left on it; or what is ours is taken away."""
        if not on:
            self._ballast.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while file.write(_BLOCK):
                pass


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """An empty one at `folder`, which is made."""
    folder.mkdir()
    options = f"size={MB}m,mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "jiffy-chaos", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def trouble() -> str:
    """Why there can be no disk of our own; "" when there can."""
    return "" if os.geteuid() == 0 else "a disk of our own needs root"
