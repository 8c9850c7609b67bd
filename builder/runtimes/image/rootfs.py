"""The layers of an image, one upon the other, as one folder: whiteouts, links, and all that a hostile layer may try.

The tree is made in memory first: names and links are resolved there, inside the image, and files' contents lie in a
spool beside it until the last layer has been read. Only then folders, files and, last, links are made on disk, so
nothing is ever written through a link. Owners, modes beyond the x-bit, devices and sockets are not kept: nobody in a
sandbox could use them. Bounds: limits.IMAGE_….
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from builder.tar import Tar
from jiffy.contract import layout, limits
from jiffy.contract.errors import BuildFailed

_CHUNK = 1024 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_LINKS_MAX = 40  # that one path leads through; the kernel's bound
_PATH_MAX_BYTES, _NAME_MAX_BYTES = 2048, 255  # the kernel's 4096 have to do for our folders above it, too
_DEPTH_MAX = 200  # of folders in folders; whoever walks the tree later goes as deep
_HARD_LINKS_MAX = 10_000  # to one file; ext4 bears 65,000
_MOUNTED = ("proc", "dev", "sys", "tmp", "etc", layout.SOCKET_DIR[1:])  # folders that a sandbox needs


@dataclass(slots=True, eq=False)
class File:
    spool: Path
    size: int
    executable: bool
    layer: int


@dataclass(slots=True)
class Link:
    target: str
    layer: int


@dataclass(slots=True)
class Folder:
    layer: int
    entries: dict[str, Folder | File | Link] = field(default_factory=dict)


class Rootfs:
    """See the module. `spool` is a new folder to work in."""

    def __init__(self, spool: Path) -> None:
        self.root = Folder(0)
        self._spool = spool
        self._layer = 0
        self._count = self._bytes = self._spooled = self._read = 0
        self._linked_to: Counter[Path] = Counter()  # a file in the spool → its hard links
        spool.mkdir()

    # --- reading a layer --------------------------------------------------------------------------------------
    def apply(self, blob: Path, diff_id: str) -> None:
        """Put one more layer on top: a tar, perhaps compressed with gzip. Raises BuildFailed."""
        self._layer += 1
        with blob.open("rb") as raw:
            stream = _Hashed(_inflated(raw), self._read)
            try:
                with Tar.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:  # type: ignore[call-overload]
                    for info in tar.each():
                        self._take(tar, info)
                while stream.read(_CHUNK):
                    pass  # what is behind the end of the archive is part of the digest
            except (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError) as exc:
                raise BuildFailed(f"image: layer {self._layer} is not a readable tar archive: {exc}") from exc
            except (OSError, EOFError, zlib.error) as exc:
                raise BuildFailed(f"image: layer {self._layer} can't be read: {exc}") from exc
        self._read = stream.count
        if stream.digest != diff_id:
            raise BuildFailed(f"image: layer {self._layer} is not the one that its configuration names: {diff_id:.100}")

    def _take(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        self._count += 1
        if self._count > limits.IMAGE_MAX_FILES:
            raise BuildFailed(f"image: more than {limits.IMAGE_MAX_FILES} files and folders")
        parts = _parts(info.name)
        if not parts:
            return
        folder, name = self._folder(parts[:-1], info.name), parts[-1]
        if name == _OPAQUE:
            for other in [n for n, entry in folder.entries.items() if entry.layer < self._layer]:
                del folder.entries[other]
        elif name.startswith(_WHITEOUT):
            hidden = folder.entries.get(name.removeprefix(_WHITEOUT))
            if hidden is not None and hidden.layer < self._layer:
                del folder.entries[name.removeprefix(_WHITEOUT)]
        elif info.isdir():
            if not isinstance(folder.entries.get(name), Folder):
                folder.entries[name] = Folder(self._layer)
        elif info.issym():
            if not info.linkname or _length(info.linkname) > _PATH_MAX_BYTES or "\0" in info.linkname:
                raise BuildFailed(f"image: {_shown(info.name)} is a link to a name that is empty or too long")
            folder.entries[name] = Link(info.linkname, self._layer)
        elif info.islnk():
            folder.entries[name] = self._linked(info)
        elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and info.sparse is None:
            folder.entries[name] = self._file(tar, info)
        # devices, pipes and sockets: a sandbox has its own /dev

    def _folder(self, parts: list[str], shown: str) -> Folder:
        """The folder of these names, made where it is missing. Links are followed inside the image."""
        found = self._walk(parts, make=True)
        if not isinstance(found, Folder):
            raise BuildFailed(f"image: {_shown(shown)} lies in something that is no folder")
        return found

    def _walk(self, parts: list[str], *, make: bool = False) -> Folder | File | None:
        """What these names lead to; None when that is nothing, or a circle of links."""
        way: list[Folder] = [self.root]
        names, followed = list(reversed(parts)), 0
        while names:
            name = names.pop()
            if name == "..":
                way = way[:-1] or [self.root]
                continue
            entry = way[-1].entries.get(name)
            if entry is None and make:
                entry = way[-1].entries[name] = Folder(self._layer)
            if isinstance(entry, Link):
                followed += 1
                if followed > _LINKS_MAX:
                    return None
                if entry.target.startswith("/"):
                    way = [self.root]
                names += reversed([part for part in entry.target.split("/") if part not in ("", ".")])
            elif isinstance(entry, Folder):
                way.append(entry)
                if len(way) > _DEPTH_MAX:
                    raise BuildFailed(f"image: {_shown('/'.join(parts))}: more than {_DEPTH_MAX} folders deep")
            else:
                return entry if not names else None
        return way[-1]

    def _linked(self, info: tarfile.TarInfo) -> File | Link:
        """A hard link's file, which counts as another copy: as such it lies in our layer."""
        parts = _parts(info.linkname)
        folder = self._walk(parts[:-1])
        first = folder.entries.get(parts[-1]) if parts and isinstance(folder, Folder) else None
        if isinstance(first, Link):
            return Link(first.target, self._layer)
        if not isinstance(first, File):
            raise BuildFailed(f"image: {_shown(info.name)} is a hard link to {_shown(info.linkname)}, which is no file")
        self._add(first.size)
        self._linked_to[first.spool] += 1
        if self._linked_to[first.spool] > _HARD_LINKS_MAX:
            raise BuildFailed(f"image: {_shown(info.linkname)} has more than {_HARD_LINKS_MAX} hard links")
        return File(first.spool, first.size, first.executable, self._layer)

    def _file(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> File:
        source = tar.extractfile(info)
        assert source is not None
        self._add(info.size)
        self._spooled += 1
        place = self._spool / str(self._spooled)
        left = info.size
        with place.open("xb") as out:
            while left:
                piece = source.read(min(_CHUNK, left))
                if not piece:
                    raise BuildFailed(f"image: {_shown(info.name)} is shorter than its header says")
                left -= len(piece)
                out.write(piece)
        return File(place, info.size, bool(info.mode & 0o111), self._layer)

    def _add(self, size: int) -> None:
        self._bytes += size
        if self._bytes > limits.IMAGE_MAX_BYTES:
            raise BuildFailed(f"image: unpacks to more than {limits.IMAGE_MAX_BYTES // limits.MIB} MiB")

    # --- looking at it ----------------------------------------------------------------------------------------
    def executable(self, path: str) -> bool:
        """Is there an executable file at this path, links followed?"""
        found = self._walk(_parts(path))
        return isinstance(found, File) and found.executable

    # --- on disk ----------------------------------------------------------------------------------------------
    def write(self, into: Path, workdir: str) -> None:
        """Make the new folder `into` this root file system, with the folders that a sandbox mounts things on."""
        for place in _MOUNTED:
            self._ensure(place.split("/"))
        self._folder(_parts(workdir), workdir)
        for name in ("passwd", "group", "hosts", "resolv.conf", "hostname"):
            etc = self.root.entries["etc"]
            if isinstance(etc, Folder) and not isinstance(etc.entries.get(name), File):
                etc.entries[name] = self._empty()
        links: list[tuple[Path, str]] = []
        _write(self.root, into, links, len(os.fsencode(into)) + _PATH_MAX_BYTES)
        for path, target in links:
            path.symlink_to(target)
        (into / "tmp").chmod(0o1777)

    def _ensure(self, parts: list[str]) -> None:
        """Folders of these names, whatever else stands there."""
        here = self.root
        for name in parts:
            found = here.entries.get(name)
            if not isinstance(found, Folder):
                found = here.entries[name] = Folder(self._layer)
            here = found

    def _empty(self) -> File:
        self._spooled += 1
        place = self._spool / str(self._spooled)
        place.touch()
        return File(place, 0, False, self._layer)


def _write(folder: Folder, into: Path, links: list[tuple[Path, str]], most: int) -> None:
    into.mkdir()
    for name, entry in folder.entries.items():
        path = into / name
        if len(os.fsencode(path)) > most:
            raise BuildFailed(f"image: {_shown(name)} lies in folders whose names are too long together")
        if isinstance(entry, Folder):
            _write(entry, path, links, most)
        elif isinstance(entry, Link):
            links.append((path, entry.target))
        else:
            entry.spool.chmod(0o755 if entry.executable else 0o644)
            path.hardlink_to(entry.spool)


def _parts(name: str) -> list[str]:
    """A path's names, from the root on. Raises BuildFailed."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    too_long = _length(name) > _PATH_MAX_BYTES or any(_length(part) > _NAME_MAX_BYTES for part in parts)
    if ".." in parts or "\0" in name or too_long:
        raise BuildFailed(f"image: {_shown(name)}: a path that leaves the image or is too long")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BuildFailed(f"image: {_shown(name)}: a name that is no UTF-8") from None
    return parts


def _length(name: str) -> int:
    return len(name.encode(errors="surrogateescape"))


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "…")


class _Hashed:
    """A tar's bytes on their way, hashed, and counted with those of the layers before it."""

    def __init__(self, source: IO[bytes], before: int) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self.count = before

    def read(self, size: int = -1) -> bytes:
        piece = self._source.read(min(size, _CHUNK) if size >= 0 else _CHUNK)
        self._sha256.update(piece)
        self.count += len(piece)
        if self.count > limits.IMAGE_MAX_BYTES + limits.IMAGE_MAX_FILES * 2048:  # headers and padding
            raise BuildFailed(f"image: unpacks to more than {limits.IMAGE_MAX_BYTES // limits.MIB} MiB")
        return piece

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def _inflated(raw: IO[bytes]) -> IO[bytes]:
    mark = raw.read(4)
    raw.seek(0)
    if mark.startswith(_ZSTD):
        raise BuildFailed("image: its layers are compressed with zstd; gzip is read, as `docker save` writes it")
    return gzip.GzipFile(fileobj=raw, mode="rb") if mark.startswith(_GZIP) else raw  # type: ignore[return-value]


def names(folder: Folder, above: str = "") -> Iterator[str]:
    """All paths, for tests and tools."""
    for name, entry in sorted(folder.entries.items()):
        yield f"{above}/{name}"
        if isinstance(entry, Folder):
            yield from names(entry, f"{above}/{name}")
