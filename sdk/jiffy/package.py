"""A function's folder as one archive: the same bytes for the same files, whenever and by whomever it is packed.

What stays out: ALWAYS_OUT, what .gitignore and .jiffyignore say (nested ones too, and those of the git repository
around the folder), and the files that only `jiffy deploy` reads. Which files those are is ignore.py's business.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import NamedTuple

from .contract import limits
from .contract.errors import PayloadTooLarge, SpecError
from .ignore import walk

COMPRESSION = 6
MIB = limits.MIB


class Package(NamedTuple):
    """A packed folder."""

    digest: str  # "sha256:…" of data
    data: bytes  # tar.gz
    files: int


def pack(folder: Path) -> Package:
    """Raises SpecError for what can't be packed, PayloadTooLarge beyond the limits; both say what to do."""
    if not folder.is_dir():
        raise SpecError(f"{folder} is not a folder")
    buffer, files, unpacked = io.BytesIO(), 0, 0
    with (
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in walk(folder):
            entry, content = _entry(folder, name)
            files, unpacked = files + 1, unpacked + len(content)
            _check(folder, name, files, unpacked)
            tar.addfile(entry, io.BytesIO(content))
    if not files:
        raise SpecError(f"there is nothing to deploy in {folder}: .gitignore and .jiffyignore leave no file")
    data = buffer.getvalue()
    if len(data) > limits.SOURCE_MAX_BYTES:
        raise PayloadTooLarge(
            f"{folder} is {len(data) / MIB:.1f} MiB when packed; at most {limits.SOURCE_MAX_BYTES // MIB} MiB are "
            "allowed: name what the function does not need in .jiffyignore"
        )
    return Package(f"sha256:{hashlib.sha256(data).hexdigest()}", data, files)


def _entry(folder: Path, name: str) -> tuple[tarfile.TarInfo, bytes]:
    """The archive's entry for one file, stripped of owner, time and all of the mode but "executable"."""
    path = folder / name
    entry = tarfile.TarInfo(name)
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, _inside(folder, name)
            return entry, b""
        if not stat.S_ISREG(mode):
            raise SpecError(f"{path} is neither file, folder nor link; name it in .jiffyignore")
        content = path.read_bytes()
    except OSError as exc:
        raise SpecError(f"can't read {path}: {exc.strerror}") from exc
    entry.mode = 0o755 if mode & stat.S_IXUSR else 0o644
    entry.size = len(content)
    return entry, content


def _inside(folder: Path, name: str) -> str:
    """The target of a link, which must stay in the folder: nothing else is there when the function runs."""
    target = (folder / name).readlink()
    lexical = os.path.normpath(Path(name).parent / target)  # "" / "/etc" is "/etc"
    if lexical.startswith(("/", "..")) or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise SpecError(
            f"{folder / name} links to {target}, outside of the folder; copy the file, or name the link in .jiffyignore"
        )
    return str(target)


def _check(folder: Path, name: str, files: int, unpacked: int) -> None:
    if len(name) > limits.SOURCE_PATH_MAX_CHARS:
        raise PayloadTooLarge(f"the path {name[:60]}… has more than {limits.SOURCE_PATH_MAX_CHARS} characters")
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise SpecError(f"the name {name!r} is not valid UTF-8; rename it or name it in .jiffyignore") from exc
    if files > limits.SOURCE_MAX_FILES:
        raise PayloadTooLarge(f"{folder} holds more than {limits.SOURCE_MAX_FILES} files; use .jiffyignore")
    if unpacked > limits.SOURCE_UNPACKED_MAX_BYTES:
        raise PayloadTooLarge(
            f"{folder} holds more than {limits.SOURCE_UNPACKED_MAX_BYTES // MIB} MiB; name what the function does not "
            "need in .jiffyignore"
        )
