"""Layers: a folder becomes a deterministic tar, a digest, an unpacked tree that invokers bind, and a compressed blob.

A layer's digest is the sha256 of its uncompressed tar, whose paths are those of the *image* (``var/task/hello.py``);
the tree holds the plain folder, so that an invoker can bind it where it belongs. Everything is made in a staging folder
inside the data folder and moved in by one rename: no locks, no half-made layer, and two builders that make the same
layer agree. What goes into a folder is decided in source.py, deps.py and runtimes/.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import deflate

from jiffy.contract import layout
from jiffy.contract.messages import Layer

_COMPRESSION = 6  # 9 costs three times the time for one percent
_DENSEST = 10  # libdeflate's: four percent less than zlib's 9; 12 takes twice the time for 0.1 percent
_STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer on disk: what messages carry, and its compressed blob in the OCI layout."""

    layer: Layer
    blob: str  # "sha256:…" of the gzipped tar
    blob_bytes: int


class LayerStore:
    """The layers of one data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._root = data / layout.LAYERS
        self._blobs = data / layout.OCI / "blobs" / "sha256"
        for folder in (data, self._root, data / layout.OCI, data / layout.OCI / "blobs", self._blobs):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o711)  # sandboxes' users must get through to their layers, and see no others
        (data / layout.OCI).chmod(0o700)  # images are for the builder alone

    @property
    def id(self) -> str:
        """Which layer store this is, for hosts that look for its layers; made when there is none."""
        path = layout.layer_store_id(self.data)
        if not path.exists():
            fresh = path.with_name(f".id-{os.urandom(8).hex()}")
            fresh.write_text(fresh.name.removeprefix(".id-") + "\n")
            with suppress(FileExistsError):  # somebody else was first
                path.hardlink_to(fresh)
            fresh.unlink()
        return path.read_text().strip()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder to build in, on the layers' own file system. Whatever is left in it afterwards goes away."""
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self._root))
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH)  # tells `sweep` that someone is at work here
        try:
            yield folder
        finally:
            os.close(handle)
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed builders left behind."""
        for folder in self._root.glob(f"{_STAGING}*"):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            finally:
                os.close(handle)
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, digest: str) -> StoredLayer | None:
        """The layer with this digest, when its tree and its blob are both here. It stays for a while then."""
        touch(layout.layer(self.data, digest))
        try:
            described = json.loads((layout.layer(self.data, digest) / "layer.json").read_text())
            stored = StoredLayer(Layer(**described["layer"]), described["blob"], described["blob_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        blob, tree = self.blob_path(stored.blob), layout.layer_tree(self.data, digest)
        return stored if touch(blob) and tree.is_dir() else None

    def blob_path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def put(self, kind: str, tree: Path, prefix: str = "", *, dense: bool = False) -> StoredLayer:
        """Make the folder `tree` (inside a staging folder; it is moved away) a layer at `prefix` of the image.

        `dense`: compressed as small as gzip can be, in memory; for what is made once and carried often.
        """
        normalise(tree)
        with tempfile.NamedTemporaryFile(dir=self._blobs.parent, prefix=".blob-", delete=False) as file:
            try:
                digest, size = (self._pack_dense if dense else self._pack)(tree, prefix, file)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                file.seek(0)
                blob = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
                stored = StoredLayer(Layer(kind, digest, size), blob, file.tell())
                Path(file.name).replace(self.blob_path(blob))
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        self._settle(tree, stored)
        return stored

    def _pack(self, tree: Path, prefix: str, file: IO[bytes]) -> tuple[str, int]:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_COMPRESSION, mtime=0) as packed:
            hashing = _Hashing(packed)
            size = write_tar(tree, prefix, hashing)
        return f"sha256:{hashing.sha256.hexdigest()}", size

    def _pack_dense(self, tree: Path, prefix: str, file: IO[bytes]) -> tuple[str, int]:
        buffer = io.BytesIO()
        hashing = _Hashing(buffer)
        size = write_tar(tree, prefix, hashing)
        file.write(deflate.gzip_compress(buffer.getbuffer(), _DENSEST))
        return f"sha256:{hashing.sha256.hexdigest()}", size

    def _settle(self, tree: Path, stored: StoredLayer) -> None:
        made = Path(tempfile.mkdtemp(prefix="made-", dir=tree.parent))
        tree.rename(made / "tree")
        described = {"layer": stored.layer._asdict(), "blob": stored.blob, "blob_bytes": stored.blob_bytes}
        (made / "layer.json").write_text(json.dumps(described, indent=1))
        (made / "layer.json").chmod(0o644)
        made.chmod(0o755)
        target = layout.layer(self.data, stored.layer.digest)
        try:
            made.rename(target)
        except OSError as exc:
            if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # The very same layer is there, perhaps in use: keep its tree, and say which blob is ours.
            (made / "layer.json").replace(target / "layer.json")


def touch(path: Path) -> bool:
    """Is it there? Whoever sweeps sees that it was asked for; where we may not say so, nobody of ours sweeps."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:
        return path.exists()
    return True


class _Hashing:
    """A tar's bytes pass through and are hashed on the way."""

    def __init__(self, out: gzip.GzipFile | io.BytesIO) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._out.write(data)


def normalise(tree: Path) -> None:
    """Modes 0755/0644 (and 1777 where sticky) and a modification time of 0, whatever the umask and the clock were."""
    for folder, _, files in os.walk(tree, topdown=False):
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118 - thousands of files
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode):
                os.chmod(path, 0o755 if mode & 0o111 else 0o644)  # noqa: PTH101
            os.utime(path, (0, 0), follow_symlinks=False)
        sticky = os.lstat(folder).st_mode & stat.S_ISVTX
        os.chmod(folder, 0o1777 if sticky else 0o755)  # noqa: PTH101
        os.utime(folder, (0, 0))


def write_tar(tree: Path, prefix: str, out: _Hashing) -> int:
    """Write `tree`, below `prefix`, as a tar that depends on nothing but names, contents and x-bits. Returns bytes.

    Sorted by path, so the order in which a file system lists its entries is no part of the digest.
    """
    total = 0
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        parts = prefix.strip("/").split("/") if prefix.strip("/") else []
        for depth in range(1, len(parts) + 1):
            tar.addfile(_info("/".join(parts[:depth]), tarfile.DIRTYPE, 0o755))
        for path in _sorted(tree):
            relative = "/".join([*parts, path.relative_to(tree).as_posix()])
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                info = _info(relative, tarfile.SYMTYPE, 0o777)
                info.linkname = str(path.readlink())
                tar.addfile(info)
            elif stat.S_ISDIR(found.st_mode):
                tar.addfile(_info(relative, tarfile.DIRTYPE, found.st_mode & 0o1777))
            else:
                info = _info(relative, tarfile.REGTYPE, found.st_mode & 0o777)
                info.size = found.st_size
                total += info.size
                with path.open("rb") as file:
                    tar.addfile(info, file)
    return total


def _sorted(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.iterdir(), key=lambda p: p.name):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _sorted(path)


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    return info
