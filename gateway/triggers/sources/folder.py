"""A folder on the gateway's host, and all below it, as a place of files. No symbolic link is followed, ever.

What begins with a dot is left out: that is how rsync and others call what is not whole yet. Names that are no UTF-8 are
left out too, since an event could not say them.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.triggers.sources.base import SourceError
from gateway.triggers.sources.files import File, Listing, Unreadable

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)  # or it is a link or a pipe by now


def allowed(folder: str, roots: Sequence[Path]) -> bool:
    """May it be watched: is it, or is it in, one of `roots`? Where its symbolic links lead to is what counts."""
    real = Path(folder).resolve()
    return any(real.is_relative_to(root.resolve()) for root in roots)


class Folder:
    def __init__(self, path: str, roots: Sequence[Path]) -> None:
        self._path = path
        self._roots = tuple(roots)
        self._before: dict[str, File] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to disconnect from."""

    async def look(self) -> dict[str, File]:
        """Whole are those that are as they were at the look before."""
        before, self._before = self._before, await asyncio.to_thread(self._all)
        return {key: file._replace(whole=before.get(key) == file) for key, file in self._before.items()}

    def _all(self) -> dict[str, File]:
        if not allowed(self._path, self._roots):  # again each time: links change
            raise SourceError(f"{self._path} may not be watched; start the gateways with --files {self._path}")
        found = Listing(self._path)
        try:
            for key, entry in _files(self._path, ""):
                found.add(key, entry)
        except OSError as exc:
            raise SourceError(f"{self._path}: {exc.strerror or exc}") from exc
        return found.files

    async def content(self, key: str, file: File) -> bytes | None:
        return await asyncio.to_thread(self._read, key, file)

    def _read(self, key: str, file: File) -> bytes | None:
        """Part by part, so that no folder on the way can have become a link."""
        *folders, name = key.split("/")
        try:
            at = os.open(Path(self._path).resolve(), _READ | os.O_DIRECTORY)
            try:
                for folder in folders:
                    deeper = os.open(folder, _READ | os.O_DIRECTORY, dir_fd=at)
                    os.close(at)
                    at = deeper
                with open(os.open(name, _READ | os.O_NONBLOCK, dir_fd=at), "rb") as opened:  # noqa: PTH123
                    if _file(os.fstat(opened.fileno())).version != file.version:
                        return None
                    return opened.read(file.size)
            finally:
                os.close(at)
        except OSError as exc:
            if exc.errno in _GONE:
                return None
            raise Unreadable(f"{key}: {exc.strerror or exc}") from exc


def _files(folder: str, prefix: str) -> Iterator[tuple[str, File]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not _says(entry.name):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(entry.path, f"{prefix}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    yield prefix + entry.name, _file(entry.stat(follow_symlinks=False))
            except (FileNotFoundError, PermissionError):
                continue  # it went while we looked, or is none of ours


def _file(stat: os.stat_result) -> File:
    version = f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"
    return File(version, stat.st_size, stat.st_mtime_ns // 1_000_000)


def _says(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
