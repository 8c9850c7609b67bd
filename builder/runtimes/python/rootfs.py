"""What the root file system of a Python runtime holds: one interpreter, what it needs, and nothing more.

`fill` takes the executable, the standard library (stdlib.py says which part of it, and how), the extension modules, the
shared libraries that all these need, certificates and time zones from this host. base.py makes a layer of it, and says
when to do so again.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from builder import elf, libraries
from builder.processes import Processes
from jiffy.contract import layout
from jiffy.contract.errors import PlatformError

from . import bytecode, stdlib, zones
from .interpreter import Interpreter

# libgcc_s is loaded by name when a thread is cancelled; the others, by an older C library, when a name is looked up.
_LOADED_BY_NAME: tuple[str, ...] = ("libgcc_s.so.1",)
if platform.libc_ver()[0] == "glibc" and tuple(map(int, platform.libc_ver()[1].split(".")[:2])) < (2, 34):
    _LOADED_BY_NAME += ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_CERTIFICATES_INSIDE = "/etc/ssl/certs/ca-certificates.crt"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/tmp:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "",  # a place to mount the host's on
}
_EMPTY_DIRS = (layout.TASK_DIR, layout.DEPS_DIR, layout.SOCKET_DIR, "/proc", "/dev", "/sys", "/etc")


def fill(
    root: Path,
    python: Interpreter,
    files: Mapping[str, bytes],
    processes: Processes,
    only: frozenset[str] | None = None,
) -> dict[str, list[int]]:
    """Make the new folder `root` a root file system, with `files` in /var/runtime.

    `only`: the modules of the standard library that go into it, None for all (see reach.py).
    Returns the host's files it came from, each with its `stamp`. Raises PlatformError where the host lacks a part.
    """
    tree = _Tree(root)
    _interpreter(tree, python, only)
    _libraries(tree, python)
    _system(tree, python, only)
    for name, content in files.items():
        tree.write(f"{layout.RUNTIME_DIR}/{name}", content)
    _trim(tree)
    _compile(root, python, files, processes)
    return tree.sources


def stamp(path: Path) -> list[int]:
    """What changes when a file of the host is replaced."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


class _Tree:
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


def _interpreter(tree: _Tree, python: Interpreter, only: frozenset[str] | None) -> None:
    inside = f"/usr/local/{python.platlibdir}/{python.runtime}"
    tree.copy_elf(python.executable, f"/usr/local/bin/{python.runtime}")
    tree.link("/usr/local/bin/python3", python.runtime)
    for source in stdlib.sources(python.stdlib):
        relative = source.relative_to(python.stdlib).as_posix()
        if only is None or stdlib.module(relative) in only:
            tree.copy(source, f"{inside}/{relative}")
    stdlib.hook(tree.root / inside.lstrip("/"), () if only is None else stdlib.names(python) - only)
    tree.at(f"{inside}/lib-dynload/x").parent.mkdir(exist_ok=True)  # a landmark even when it is empty
    for source in stdlib.extensions(python):
        if only is not None and stdlib.module(source.name) not in only:
            continue
        tree.copy_elf(source, f"{inside}/lib-dynload/{source.name}")


def _libraries(tree: _Tree, python: Interpreter) -> None:
    """Every shared library that the files need, where the image's loader looks when it has no cache to look in."""
    loader = elf.Loader.of_host()
    executable = elf.read(python.executable)
    if executable is None:
        raise PlatformError(f"{python.executable} is no ELF executable")
    found = elf.closure(tree.elves, loader)
    for name, by in found.missing.items():
        if by == python.executable:
            raise PlatformError(f"{python.executable} needs {name}, which this host doesn't have")
        _forget(tree, python, by)  # a module that the host's interpreter can't import either
    extra = [loader.find(name, python.executable, executable) for name in _LOADED_BY_NAME]
    wanted = {path.name: path for path in extra if path is not None}
    folder = library_dir(executable, found.found)
    start = Path(executable.interpreter)
    all_of_them = found.found | wanted | elf.closure(wanted.values(), loader).found
    for name, path in sorted(all_of_them.items()):
        if name != start.name:
            tree.copy(path, f"{folder}/{name}")
    for name in libraries.PORTABLE:
        if name not in all_of_them:
            tree.link(f"{folder}/{name}", f"{libraries.FOLDER}/{name}")
    if executable.interpreter:
        tree.copy(start, executable.interpreter)
        tree.at(executable.interpreter).chmod(0o755)


def library_dir(executable: elf.Elf, found: Mapping[str, Path]) -> str:
    """A folder that the image's loader searches by default: the one where the host's loader finds the C library."""
    libc = found.get("libc.so.6")
    return str(libc.parent) if libc is not None else "/lib"  # musl is its own C library and looks in /lib


def _forget(tree: _Tree, python: Interpreter, by: Path) -> None:
    copy = tree.root / f"usr/local/{python.platlibdir}/{python.runtime}/lib-dynload/{by.name}"
    if by.parent == python.dynload:
        copy.unlink(missing_ok=True)


def _system(tree: _Tree, python: Interpreter, only: frozenset[str] | None) -> None:
    for folder in _EMPTY_DIRS:
        tree.at(f"{folder}/x").parent.mkdir(exist_ok=True)
    tree.at(f"{layout.SCRATCH_DIR}/x").parent.chmod(0o1777)
    for name, text in _FILES.items():
        tree.write(name, text.encode())
    bundle = next((p for p in map(Path, _CERTIFICATES) if p.is_file()), None)
    if bundle is not None and (only is None or "ssl" in only):
        tree.copy(bundle, _CERTIFICATES_INSIDE)
        if python.cafile.startswith("/"):
            tree.link(python.cafile, _CERTIFICATES_INSIDE)
    for zone in zones.zones() if only is None or "zoneinfo" in only else ():
        if zone.same_as is None:
            tree.write(str(zone.source), zone.content)
            tree.sources[str(zone.source)] = stamp(zone.source)
        else:
            tree.link(str(zone.source), os.path.relpath(zone.same_as, zone.source.parent))


def _trim(tree: _Tree) -> None:
    """Take what no loader reads out of every ELF file."""
    for path in sorted(tree.root.rglob("*")):
        if path.is_file() and not path.is_symlink() and elf.is_elf(path):
            path.write_bytes(elf.trimmed(path.read_bytes()))


def _compile(root: Path, python: Interpreter, files: Mapping[str, bytes], processes: Processes) -> None:
    """The standard library as .pyc alone, most of it zipped; Jiffy's own files keep their source, which people read."""
    library = f"usr/local/{python.platlibdir}/{python.runtime}"
    runtime = root / layout.RUNTIME_DIR.lstrip("/")
    done = bytecode.compile_tree(processes, python.executable, root / library, f"/{library}", sourceless=True)
    ours = bytecode.compile_tree(processes, python.executable, runtime, layout.RUNTIME_DIR)
    for problem in (*done.problems, *ours.problems):
        if problem.file == "os.py" or problem.file in files:
            raise PlatformError(f"{python.runtime} can't compile {problem.file}: {problem.message}")
    stdlib.pack(root / library, python)
