"""Shared libraries that a function's packages or code need and the base layer doesn't have.

Portable wheels (manylinux, PEP 600) may expect a few libraries of every system. The interpreter itself needs hardly one
of them, so they lie in no base layer: each has a link there that leads into the dependency layer, and `complete`
puts the library at the link's other end for those functions that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from builder import elf
from jiffy.contract import layout

FOLDER = f"{layout.DEPS_DIR}/.lib"
PORTABLE: tuple[str, ...] = ("libstdc++.so.6", "libexpat.so.1", "libz.so.1", "libresolv.so.2")
PORTABLE += ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1")  # empty shells since glibc 2.34


def complete(files: Iterable[Path], bundled: Iterable[Path], base: Path, into: Path) -> dict[str, Path]:
    """Put into the folder `into` what portable wheels may expect of a system and `files` need.

    `bundled` are the libraries that come with the files, `base` is the unpacked layer they will run on. Returns what is
    still missing: library name → who needs it.
    """
    files, bundled = list(files), list(bundled)
    missing = _missing(files, bundled, base)
    while brought := _bring(missing, into):  # which may need more
        files, bundled = files + brought, bundled + brought
        missing = _missing(files, bundled, base)
    return dict(sorted(missing.items()))


def needs(own: Sequence[Path], base: Path) -> tuple[str, ...]:
    """The portable libraries that a function's own native files need and the unpacked layer `base` doesn't have."""
    return tuple(sorted(set(_missing(own, own, base)) & set(PORTABLE))) if own else ()


def native(folder: Path) -> tuple[Path, ...]:
    """The shared objects in `folder`, by their names."""
    return tuple(sorted(path for path in folder.rglob("*.so*") if path.is_file()))


def _missing(files: Iterable[Path], bundled: Iterable[Path], base: Path) -> dict[str, Path]:
    inside = [*base.glob("lib*/**/*.so*"), *base.glob("usr/lib*/**/*.so*"), *bundled]
    return elf.closure(files, elf.Loader({path.name: (path,) for path in inside}, dirs=())).missing


def _bring(missing: Mapping[str, Path], into: Path) -> list[Path]:
    brought = []
    for name, by in sorted(missing.items()):
        user = elf.read(by)
        found = elf.Loader.of_host().find(name, by, user) if name in PORTABLE and user is not None else None
        if found is not None and not (into / name).exists():
            into.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(elf.trimmed(found.read_bytes()))
            (into / name).chmod(0o755)
            brought.append(into / name)
    return brought
