"""Which shared libraries do these files need, and where would the dynamic loader find them? (reads ELF, never runs it)

Owns the loader's search rules: DT_RPATH of the file and of what loaded it, DT_RUNPATH, $ORIGIN, the ldconfig cache, the
default folders. Copies nothing: runtimes/python/rootfs.py puts what `closure` found into an image, libraries.py asks it
what a wheel would miss there. `trimmed` is a file without what is never loaded.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

MAGIC = b"\x7fELF"
# What glibc and musl look through when nothing else says where; a folder of the wrong architecture is harmless, because
# a library is only taken when its machine fits.
DEFAULT_DIRS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")


@dataclass(frozen=True, slots=True)
class Elf:
    """What the loader reads of one file."""

    machine: str
    bits: int
    interpreter: str  # PT_INTERP, "" for a library
    soname: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]

    def fits(self, other: Elf) -> bool:
        return (self.machine, self.bits) == (other.machine, other.bits)


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read(path: Path) -> Elf | None:
    """The ELF file at `path`, or None when it is none (or a broken one)."""
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                return None
            return _read(ELFFile(file))
    except (OSError, ELFError, ValueError, KeyError, IndexError, UnicodeDecodeError):
        return None


def _read(elf: ELFFile) -> Elf:
    tags: dict[str, list[str]] = {"DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": [], "DT_SONAME": []}
    for dynamic in elf.iter_segments("PT_DYNAMIC"):  # by segment: a trimmed file has no sections
        for tag in dynamic.iter_tags() if isinstance(dynamic, DynamicSegment) else ():
            kind = tag.entry.d_tag
            if kind in tags:
                tags[kind].append(getattr(tag, kind[3:].lower()))
    interpreter = ""
    for segment in elf.iter_segments("PT_INTERP"):
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
    return Elf(
        machine=elf["e_machine"],
        bits=elf.elfclass,
        interpreter=interpreter,
        soname=next(iter(tags["DT_SONAME"]), ""),
        needed=tuple(tags["DT_NEEDED"]),
        rpath=tuple(p for text in tags["DT_RPATH"] for p in text.split(":") if p),
        runpath=tuple(p for text in tags["DT_RUNPATH"] for p in text.split(":") if p),
    )


@dataclass(frozen=True, slots=True)
class Loader:
    """Finds libraries by name. `cache` is ldconfig's, or the libraries that an image has."""

    cache: Mapping[str, tuple[Path, ...]]
    dirs: tuple[str, ...] = DEFAULT_DIRS

    @classmethod
    def of_host(cls) -> Loader:
        """The loader of this machine. Without ldconfig (musl) the default folders are all there is."""
        found: dict[str, tuple[Path, ...]] = {}
        for ldconfig in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
            if not Path(ldconfig).exists():
                continue
            done = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False, timeout=30)
            for line in done.stdout.splitlines():
                name, arrow, path = line.strip().partition(" => ")
                if arrow:
                    key = name.partition(" ")[0]
                    found[key] = (*found.get(key, ()), Path(path))
            break
        return cls(found)

    def find(self, name: str, by: Path, elf: Elf, inherited: tuple[str, ...] = ()) -> Path | None:
        """Where `name`, needed by the file `by`, is loaded from. `inherited`: DT_RPATHs of what loaded `by`."""
        if "/" in name:
            return Path(name) if Path(name).exists() else None
        rpath = () if elf.runpath else (*_origin(elf.rpath, by), *inherited)
        own = [Path(d, name) for d in (*rpath, *_origin(elf.runpath, by))]
        for candidate in (*own, *self.cache.get(name, ()), *(Path(d, name) for d in self.dirs)):
            if candidate.is_file():
                library = read(candidate)
                if library is not None and library.fits(elf):
                    return candidate
        return None


def _origin(paths: Iterable[str], by: Path) -> tuple[str, ...]:
    here = str(by.resolve().parent)
    return tuple(p.replace("${ORIGIN}", here).replace("$ORIGIN", here) for p in paths)


@dataclass(frozen=True, slots=True)
class Closure:
    """All that a set of files needs, directly and not."""

    found: dict[str, Path] = field(default_factory=dict)  # library name → file
    missing: dict[str, Path] = field(default_factory=dict)  # library name → who needs it


def closure(files: Iterable[Path], loader: Loader) -> Closure:
    """Every library that `files` need. Files that are no ELF need nothing."""
    result = Closure()
    queue: list[tuple[Path, tuple[str, ...]]] = [(path, ()) for path in files]
    seen: set[Path] = set()
    while queue:
        path, inherited = queue.pop(0)
        real = path.resolve()
        elf = read(path) if real not in seen else None
        seen.add(real)
        if elf is None:
            continue
        passed = () if elf.runpath else (*_origin(elf.rpath, path), *inherited)
        for name in elf.needed:
            if name in result.found:
                continue
            library = loader.find(name, path, elf, inherited)
            if library is None:
                result.missing.setdefault(name, path)
            else:
                result.missing.pop(name, None)
                result.found[name] = library
                queue.append((library, passed))
    return result


# --- trimming ------------------------------------------------------------------------------------------------------

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_RELA, _DT_RELASZ = 7, 8
_X86_64, _R_X86_64_RELATIVE = 62, 8


def trimmed(data: bytes) -> bytes:
    """The ELF file `data` without what no loader reads: symbols, debug information, the table of sections.

    Those lie behind the last segment, so nothing that is loaded moves: unlike strip(1), this can't break a file that
    was patched, and it is the same on every host. What is no 64-bit little-endian ELF file comes back as it is.
    """
    if data[:6] != MAGIC + b"\x02\x01" or len(data) < 64:
        return data
    table, size, count = *struct.unpack_from("<Q", data, 0x20), *struct.unpack_from("<HH", data, 0x36)
    if size != 56 or not count or table + size * count > len(data):
        return data
    segments = [struct.unpack_from("<IIQQQQQQ", data, table + size * n) for n in range(count)]
    end = max(table + size * count, *(offset + length for _, _, offset, _, _, length, *_ in segments))
    if end > len(data):
        return data
    out = bytearray(data[:end])
    struct.pack_into("<Q", out, 0x28, 0)
    struct.pack_into("<HHH", out, 0x3A, 0, 0, 0)
    _blank_relative(out, segments)
    return bytes(out)


def _blank_relative(out: bytearray, segments: list[tuple[int, ...]]) -> None:
    """Zeros where the loader writes base + addend: what stands there is never read, and compresses badly."""
    loads = [(at, offset, length) for kind, _, offset, at, _, length, *_ in segments if kind == _PT_LOAD]
    dynamic = next(((offset, length) for kind, _, offset, _, _, length, *_ in segments if kind == _PT_DYNAMIC), None)
    if struct.unpack_from("<H", out, 0x12)[0] != _X86_64 or dynamic is None:
        return

    def place(address: int, room: int) -> int | None:
        return next((address - at + off for at, off, length in loads if at <= address <= at + length - room), None)

    tags = dict(struct.iter_unpack("<QQ", out[dynamic[0] : dynamic[0] + dynamic[1] // 16 * 16]))
    table = place(tags.get(_DT_RELA, 0), tags.get(_DT_RELASZ, 0))
    if table is None or _DT_RELA not in tags:
        return
    for entry in range(table, table + tags.get(_DT_RELASZ, 0) // 24 * 24, 24):
        address, kind = struct.unpack_from("<QI", out, entry)
        target = place(address, 8) if kind == _R_X86_64_RELATIVE else None
        if target is not None:
            out[target : target + 8] = bytes(8)
