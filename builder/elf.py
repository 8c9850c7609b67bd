"""Which shared libraries do these files need, and where would the dynamic loader find them? (reads ELF, never runs it)

Owns the loader's search rules: DT_RPATH of the file and of what loaded it, DT_RUNPATH, $ORIGIN, the ldconfig cache, the
default folders. Copies nothing: runtimes/python/base.py puts what `closure` found into an image, deps.py asks it which
libraries a wheel would miss there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
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
    dynamic = elf.get_section_by_name(".dynamic")
    if isinstance(dynamic, DynamicSection):
        for tag in dynamic.iter_tags():
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
