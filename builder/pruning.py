"""What a dependency layer leaves out of the installed packages: files that nothing can use at run time, by rule.

RULES is the whole list; docs/images.md shows it (a test compares). A package named in `whole` is left as it was. Rules
that could take what an import needs look at the code first: tests stay where code outside of them imports them, stubs
where they are read to load modules lazily, texts where their name stands in the code. RECORD stays true.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder import elf

_TEXTS = re.compile(r"(?:README|CHANGE(?:S|LOG)|HISTORY|NEWS|AUTHORS|CONTRIBUT\w+)(?:\.(?:md|rst|txt))?", re.IGNORECASE)
_SOURCES = {
    ".h",
    ".hh",
    ".hpp",
    ".hxx",
    ".c",
    ".cc",
    ".cpp",
    ".cxx",
    ".f",
    ".f90",
    ".pyx",
    ".pxd",
    ".pxi",
    ".cmake",
    ".pc",
}
_SYSTEMS = {".exe", ".bat", ".cmd", ".ps1", ".dll", ".dylib", ".pyd"}
_TESTS = re.compile(
    rb"^[ \t]*(?:from|import)[ \t]+([\w.]*)(?<![\w])tests\b|^[ \t]*from[ \t]+([\w.]+)[ \t]+import[^\n]*\btests\b", re.M
)
_LINKED_MIN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of file that is left out."""

    name: str
    meaning: str
    matches: Callable[[PurePosixPath], bool]


def _tests(path: PurePosixPath) -> bool:
    return "tests" in path.parts[:-1] or path.name == "conftest.py"


RULES = (
    Rule("tests", "folders named `tests`, `conftest.py`; unless other code imports them", _tests),
    Rule("stubs", "`*.pyi`; unless the package loads modules by them", lambda path: path.suffix == ".pyi"),
    Rule("sources", "C, C++, Fortran and Cython sources and headers", lambda path: path.suffix in _SOURCES),
    Rule("static", "static libraries and object files", lambda path: path.suffix in {".a", ".lib", ".la", ".o"}),
    Rule("systems", "what only other systems run: `*.exe`, `*.dll`, `*.dylib` …", lambda path: path.suffix in _SYSTEMS),
    Rule(
        "texts",
        "readme, change log and list of authors, manual pages; unless the code names them. Licences stay",
        lambda path: bool(_TEXTS.fullmatch(path.name)) or path.parts[:2] in {("share", "man"), ("share", "doc")},
    ),
    Rule("symbols", "what no loader reads of a shared object: symbols, debug information", lambda path: False),
    Rule("copies", "equal shared objects become links to the first", lambda path: False),
)


@dataclass(slots=True)
class Saved:
    """What one rule saved."""

    files: int = 0
    bytes: int = 0

    def add(self, count: int) -> None:
        self.files, self.bytes = self.files + 1, self.bytes + count


@dataclass(frozen=True, slots=True)
class _Package:
    name: str  # normalised
    record: Path
    files: tuple[PurePosixPath, ...]

    def top(self) -> set[str]:
        return {path.parts[0].removesuffix(".py") for path in self.files}


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def prune(root: Path, whole: Collection[str]) -> dict[str, Saved]:
    """Apply the rules to the packages installed in `root`. Returns what each rule saved, by its name."""
    spared = {normal(name) for name in whole}
    packages = [package for package in _packages(root) if package.name not in spared]
    saved = {rule.name: Saved() for rule in RULES}
    texts = {package.name: _code(root, package) for package in packages}
    wanted = _wanted_tests(packages, texts)
    for package in packages:
        for path in package.files:
            rule = next((rule for rule in RULES if rule.matches(path)), None)
            if rule is None or path.parts[0].endswith(".dist-info"):
                continue
            if not _needed(rule.name, path, texts[package.name], package.name in wanted):
                saved[rule.name].add((root / path).stat().st_size)
                (root / path).unlink()
    _shrink(root, packages, saved)
    for package in packages:
        _rewrite(root, package)
    for folder, _, _ in os.walk(root, topdown=False):
        if folder != str(root) and not os.listdir(folder):  # noqa: PTH208 - thousands of folders
            Path(folder).rmdir()
    return saved


def _packages(root: Path) -> list[_Package]:
    found = []
    for record in sorted(root.glob("*.dist-info/RECORD")):
        with record.open(encoding="utf-8", newline="") as file:
            paths = [PurePosixPath(row[0]) for row in csv.reader(file) if row]
        inside = tuple(p for p in paths if ".." not in p.parts and not p.is_absolute() and _plain(root / p))
        found.append(_Package(normal(record.parent.name.partition("-")[0]), record, inside))
    return found


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _code(root: Path, package: _Package) -> bytes:
    """All Python code of a package that is no test, to look for names in."""
    return b"\n".join((root / path).read_bytes() for path in package.files if path.suffix == ".py" and not _tests(path))


def _wanted_tests(packages: Iterable[_Package], texts: dict[str, bytes]) -> set[str]:
    """Packages whose tests are imported by code that is none."""
    owners = {top: package.name for package in packages for top in package.top()}
    wanted = set()
    for package in packages:
        for match in _TESTS.finditer(texts[package.name]):
            start = (match[1] or match[2] or b"").decode().partition(".")[0]
            wanted.add(owners.get(start, package.name))
    return wanted


def _needed(rule: str, path: PurePosixPath, code: bytes, tests: bool) -> bool:
    if rule == "tests":
        return tests
    if rule == "stubs":
        return b"attach_stub" in code
    return rule == "texts" and path.name.encode() in code


def _shrink(root: Path, packages: Iterable[_Package], saved: dict[str, Saved]) -> None:
    """Trim shared objects, and link equal ones: the loader then even maps them once."""
    first: dict[bytes, Path] = {}
    for path in (root / path for package in packages for path in package.files):
        if not _plain(path) or not elf.is_elf(path):
            continue
        content = path.read_bytes()
        small = elf.trimmed(content)
        if len(small) < len(content):
            saved["symbols"].add(len(content) - len(small))
            path.write_bytes(small)
        if len(small) >= _LINKED_MIN_BYTES:
            same = first.setdefault(hashlib.sha256(small).digest(), path)
            if same != path:
                saved["copies"].add(len(small))
                path.unlink()
                path.symlink_to(os.path.relpath(same, path.parent))


def _rewrite(root: Path, package: _Package) -> None:
    """RECORD names what is there, with its sums: tools that look find nothing amiss."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for path in package.files:
        if root / path == package.record:
            writer.writerow((path, "", ""))
        elif (root / path).is_file():
            content = (root / path).read_bytes()
            summed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            writer.writerow((path, f"sha256={summed}", len(content)))
    package.record.write_text(out.getvalue(), encoding="utf-8")
