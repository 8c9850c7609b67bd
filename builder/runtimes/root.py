"""A root file system in the making, for any runtime: files of the host, shared libraries, the few that every one has.

Remembers which of the host's files went into it, so that it is made anew when one of them changes. What goes into which
runtime's is said in its own folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from builder import elf
from builder.layers import LayerStore, StoredLayer
from jiffy.contract import layout

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/tmp:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "",  # a place to mount the host's on
}
_EMPTY_DIRS = ("/proc", "/dev", "/sys", "/etc")


def stamp(path: Path) -> list[int]:
    """What changes when a file of the host is replaced."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def ensure(store: LayerStore, key: str, fill: Callable[[Path], Mapping[str, list[int]]]) -> tuple[StoredLayer, bool]:
    """The base layer that `key` names, and whether it was there already.

    `fill` makes the folder it is given a root file system, and says which of the host's files went into it.
    """
    note = store.data / layout.CACHE / "base" / f"{key}.json"
    known = _remembered(store, note)
    if known is not None:
        return known, True
    with store.staging() as folder:
        root = folder / "root"
        sources = fill(root)
        stored = store.put("base", root, dense=True)
    note.parent.mkdir(parents=True, exist_ok=True)
    draft = note.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"digest": stored.layer.digest, "sources": sources}))
    draft.replace(note)
    return stored, False


def _remembered(store: LayerStore, note: Path) -> StoredLayer | None:
    """The layer made before, if the host's files it came from are still the same."""
    try:
        found = json.loads(note.read_text())
        for path, was in found["sources"].items():
            if stamp(Path(path)) != was:
                return None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return store.get(found["digest"])


class Root:
    """A root file system in the making; remembers which of the host's files went into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources: dict[str, list[int]] = {}
        self.elves: list[Path] = []  # of the host
        root.mkdir()

    def at(self, inside: str) -> Path:
        path = self.root / inside.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy(self, source: Path, inside: str) -> None:
        source = source.resolve()
        shutil.copyfile(source, target := self.at(inside))
        target.chmod(0o755 if source.stat().st_mode & 0o111 else 0o644)
        self.sources[str(source)] = stamp(source)

    def copy_elf(self, source: Path, inside: str) -> None:
        self.copy(source, inside)
        self.elves.append(source)

    def write(self, inside: str, content: bytes) -> None:
        self.at(inside).write_bytes(content)

    def link(self, inside: str, target: str) -> None:
        path = self.at(inside)
        if not path.exists() and not path.is_symlink():
            path.symlink_to(target)

    def copy_libraries(self, found: Mapping[str, Path], executable: elf.Elf) -> str:
        """Shared libraries by name, and the loader that `executable` names. Returns the folder that they went to."""
        folder = library_dir(found)
        start = Path(executable.interpreter)
        for name, path in sorted(found.items()):
            if name != start.name:
                self.copy(path, f"{folder}/{name}")
        if executable.interpreter:
            self.copy(start, executable.interpreter)
            self.at(executable.interpreter).chmod(0o755)
        return folder

    def furnish(self, *folders: str) -> None:
        """What every program may count on: places to mount things on, /tmp, and the few files of /etc."""
        for folder in (*folders, *_EMPTY_DIRS):
            self.at(f"{folder}/x").parent.mkdir(exist_ok=True)
        self.at(f"{layout.SCRATCH_DIR}/x").parent.chmod(0o1777)
        for name, text in _FILES.items():
            self.write(name, text.encode())

    def certify(self) -> bool:
        """The certificates of authorities, where the host has any."""
        bundle = next((p for p in map(Path, _BUNDLES) if p.is_file()), None)
        if bundle is not None:
            self.copy(bundle, CERTIFICATES)
        return bundle is not None

    def trim(self) -> None:
        """Take what no loader reads out of every ELF file."""
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and not path.is_symlink() and elf.is_elf(path):
                path.write_bytes(elf.trimmed(path.read_bytes()))


def library_dir(found: Mapping[str, Path]) -> str:
    """A folder that the image's loader searches by default: the one where the host's loader finds the C library."""
    libc = found.get("libc.so.6")
    return str(libc.parent) if libc is not None else "/lib"  # musl is its own C library and looks in /lib
