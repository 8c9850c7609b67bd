"""A hostile tar.gz → a folder that is safe to read. Nothing is written outside it, and nothing inside can lead out.

The archive is inflated into a file with a bound on its size, then read entry by entry with rules of our own; Python's
tarfile parses headers and nothing else. Refused: absolute and parent paths, links that leave the folder, devices,
FIFOs, set-uid bits, names that are the same to a file system that ignores case or Unicode form, and whatever exceeds
contract/limits.py. Where the bytes come from is the store's business; what is done with the folder is build.py's.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
import tempfile
import unicodedata
import zlib
from pathlib import Path
from typing import IO

from builder.tar import Tar
from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed

_CHUNK = 1024 * 1024
_BLOCK = 512
_COMPONENT_MAX_BYTES = 255  # of every file system we know
# A tar's own cost beside contents: a header and padding per entry, once more for long names, and the end.
_INFLATED_MAX_BYTES = limits.SOURCE_UNPACKED_MAX_BYTES + limits.SOURCE_MAX_FILES * 6 * _BLOCK
_LINKS_MAX = 1_000  # each is looked up, through up to 40 others
_KINDS = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CONTTYPE: "a contiguous file",
}
# Made by interpreters and version control, of no use at run time. A stale .pyc could even hide the code beside it.
_IGNORED = frozenset({"__pycache__"})


def unpack(archive: bytes, digest: str, into: Path) -> int:
    """Unpack `archive`, whose sha256 must be `digest`, into the new folder `into`. Returns unpacked bytes.

    Raises BuildFailed with one line that names the entry and what is wrong with it.
    """
    if len(archive) > limits.SOURCE_MAX_BYTES:
        raise BuildFailed(
            f"source: the archive has {len(archive)} bytes; at most {limits.SOURCE_MAX_BYTES} are allowed"
        )
    if f"sha256:{hashlib.sha256(archive).hexdigest()}" != digest:
        raise BuildFailed("source: the archive is not what its digest says; upload it again")
    into.mkdir()
    with tempfile.TemporaryFile(dir=into.parent) as inflated:
        size = _inflate(archive, inflated)
        inflated.seek(0)
        unpacker = _Unpacker(into)
        try:
            with Tar.open(fileobj=inflated, mode="r:", errors="surrogateescape") as tar:
                for info in tar.each():
                    unpacker.take(tar, info)
                _nothing_after(inflated, tar.offset, size)
        except (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError) as exc:
            raise BuildFailed(f"source: not a readable tar archive: {exc}") from exc
    unpacker.finish()
    return unpacker.total


def _inflate(archive: bytes, out: IO[bytes]) -> int:
    """Inflate one gzip stream, whole and alone. Counts what comes out, whatever the trailer claims."""
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    total, data = 0, archive
    try:
        while data and not stream.eof:
            piece = stream.decompress(data, _CHUNK)
            total += len(piece)
            if total > _INFLATED_MAX_BYTES:
                raise BuildFailed(f"source: unpacks to more than {limits.SOURCE_UNPACKED_MAX_BYTES} bytes")
            out.write(piece)
            data = stream.unconsumed_tail
    except zlib.error as exc:
        raise BuildFailed(f"source: not a valid gzip stream: {exc}") from exc
    if not stream.eof:
        raise BuildFailed("source: the archive is truncated")
    if stream.unused_data:
        raise BuildFailed("source: there is something after the end of the archive")
    return total


def _nothing_after(file: IO[bytes], offset: int, size: int) -> None:
    """tarfile takes a damaged header in the middle for the end; what follows the end must be zeros."""
    file.seek(min(offset, size))
    while piece := file.read(_CHUNK):
        if piece.strip(b"\0"):
            raise BuildFailed(f"source: the archive is damaged near byte {offset}")


class _Unpacker:
    """Takes one entry after the other; links are made last, so nothing can be written through one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, tuple[str, str]] = {}  # folded path → (path as first written, "file" | "dir" | "link")
        self._links: list[tuple[str, str]] = []
        self._entries = 0
        self.total = 0

    def take(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        self._entries += 1  # those that are ignored, too: an archive may lead its reader in circles
        if info.size < 0 or self._entries > 2 * limits.SOURCE_MAX_FILES:
            raise BuildFailed(f"source: entry {self._entries} has no sensible size, or there are too many")
        path = self._checked(info)
        if not path or _IGNORED.intersection(path.split("/")):
            return
        if info.isdir():
            self._claim(path, "dir")
            self._at(path).mkdir(parents=True, exist_ok=True)
        elif info.issym():
            if len(self._links) >= _LINKS_MAX:
                raise BuildFailed(f"source: more than {_LINKS_MAX} links")
            self._claim(path, "link")
            self._links.append((path, _link_target(path, info.linkname)))
        elif info.islnk():
            self._copy_of(path, info)
        elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and info.sparse is None:
            self._claim(path, "file")
            source = tar.extractfile(info)
            assert source is not None
            self._write(path, source, info.size, info.mode)
        else:
            kind = "a sparse file" if info.sparse is not None else _KINDS.get(info.type, "a special file")
            raise BuildFailed(f"source: {path!r} is {kind}; only files, folders and links inside are allowed")

    def _checked(self, info: tarfile.TarInfo) -> str:
        """The entry's normal path, "" for the root itself."""
        name = info.name
        shown = repr(name if len(name) <= 80 else name[:77] + "…")
        if len(name) > limits.SOURCE_PATH_MAX_CHARS:
            raise BuildFailed(f"source: {shown}: a path longer than {limits.SOURCE_PATH_MAX_CHARS} characters")
        if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in name):
            raise BuildFailed(f"source: {shown}: a name that is no printable UTF-8")
        if name.startswith("/"):
            raise BuildFailed(f"source: {shown}: an absolute path")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise BuildFailed(f"source: {shown}: a path that leaves the folder")
        if any(len(part.encode()) > _COMPONENT_MAX_BYTES for part in parts):
            raise BuildFailed(f"source: {shown}: a name longer than {_COMPONENT_MAX_BYTES} bytes")
        if info.mode & 0o6000:
            raise BuildFailed(f"source: {shown}: a set-uid or set-gid bit")
        return "/".join(parts)

    def _claim(self, path: str, kind: str) -> None:
        """Each name once, and once only for file systems that fold case or compose characters."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            here = "/".join(parts[:depth])
            want = kind if depth == len(parts) else "dir"
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", here).casefold())
            held = self._names.get(folded)
            if held is None:
                if len(self._names) >= limits.SOURCE_MAX_FILES:
                    raise BuildFailed(f"source: more than {limits.SOURCE_MAX_FILES} files and folders")
                self._names[folded] = (here, want)
            elif held[0] != here:
                raise BuildFailed(f"source: {here!r} and {held[0]!r} are one name where case or accents don't count")
            elif held[1] != want or want != "dir":
                raise BuildFailed(f"source: {here!r} is there twice")

    def _write(self, path: str, source: IO[bytes], size: int, mode: int) -> None:
        target = self._at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        left = size
        with target.open("xb") as out:
            while left:
                piece = source.read(min(_CHUNK, left))
                if not piece:
                    raise BuildFailed(f"source: {path!r} is shorter than its header says; the archive is truncated")
                left -= len(piece)
                self.total += len(piece)
                if self.total > limits.SOURCE_UNPACKED_MAX_BYTES:
                    raise BuildFailed(f"source: unpacks to more than {limits.SOURCE_UNPACKED_MAX_BYTES} bytes")
                out.write(piece)
        target.chmod(0o755 if mode & 0o111 else 0o644)

    def _copy_of(self, path: str, info: tarfile.TarInfo) -> None:
        """A hard link becomes a copy, of a file that this archive has already brought."""
        first = "/".join(part for part in info.linkname.split("/") if part not in ("", "."))
        if (first, "file") not in self._names.values() or info.linkname.startswith("/"):
            raise BuildFailed(f"source: {path!r} is a hard link to {info.linkname!r}, which is no earlier file of it")
        self._claim(path, "file")
        with self._at(first).open("rb") as source:
            found = os.fstat(source.fileno())
            self._write(path, source, found.st_size, found.st_mode)

    def _at(self, path: str) -> Path:
        return self._root / path

    def finish(self) -> None:
        """Make the links, then see where each really leads, whatever chains they form."""
        for path, target in self._links:
            place = self._at(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)
        inside = os.path.realpath(self._root)
        for path, target in self._links:
            self._short(path)
            real = os.path.realpath(self._at(path))
            if real != inside and not real.startswith(inside + os.sep):
                raise BuildFailed(f"source: {path!r} is a link to {target!r}, outside the folder")

    def _short(self, path: str) -> None:
        """Links that lead to links in a circle, or in a longer chain than the kernel follows, are of no use."""
        try:
            self._at(path).stat()
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise BuildFailed(f"source: {path!r} is a link that leads from link to link without end") from exc


def _link_target(path: str, target: str) -> str:
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0 or target.startswith("/"):
            raise BuildFailed(f"source: {path!r} is a link to {target!r}, outside the folder")
    if not target or len(target) > limits.SOURCE_PATH_MAX_CHARS or not target.isprintable():
        raise BuildFailed(f"source: {path!r} is a link to a name that is empty, too long or not printable")
    return target
