"""What the root file system of a Python runtime holds: one interpreter, what it needs, and nothing more.

`fill` takes the executable, the standard library (stdlib.py says which part of it, and how), the extension modules, the
shared libraries that all these need, certificates and time zones from this host. base.py makes a layer of it, and says
when to do so again.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from builder import elf, libraries
from builder.processes import Processes
from builder.runtimes.root import CERTIFICATES, Root, stamp
from jiffy.contract import layout
from jiffy.contract.errors import PlatformError

from . import bytecode, stdlib, zones
from .interpreter import Interpreter

# libgcc_s is loaded by name when a thread is cancelled; the others, by an older C library, when a name is looked up.
_LOADED_BY_NAME: tuple[str, ...] = ("libgcc_s.so.1",)
if platform.libc_ver()[0] == "glibc" and tuple(map(int, platform.libc_ver()[1].split(".")[:2])) < (2, 34):
    _LOADED_BY_NAME += ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")

_SCRIPTS = ("agent", "serve")  # started by their path: no interpreter reads a script's bytecode from a cache


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
    tree = Root(root)
    _interpreter(tree, python, only)
    _libraries(tree, python)
    _system(tree, python, only)
    for name, content in files.items():
        tree.write(f"{layout.RUNTIME_DIR}/{name}", content)
    tree.trim()
    _compile(root, python, files, processes)
    return tree.sources


def _interpreter(tree: Root, python: Interpreter, only: frozenset[str] | None) -> None:
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


def _libraries(tree: Root, python: Interpreter) -> None:
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
    all_of_them = found.found | wanted | elf.closure(wanted.values(), loader).found
    folder = tree.copy_libraries(all_of_them, executable)
    for name in libraries.PORTABLE:
        if name not in all_of_them:
            tree.link(f"{folder}/{name}", f"{libraries.FOLDER}/{name}")


def _forget(tree: Root, python: Interpreter, by: Path) -> None:
    copy = tree.root / f"usr/local/{python.platlibdir}/{python.runtime}/lib-dynload/{by.name}"
    if by.parent == python.dynload:
        copy.unlink(missing_ok=True)


def _system(tree: Root, python: Interpreter, only: frozenset[str] | None) -> None:
    tree.furnish(layout.TASK_DIR, layout.DEPS_DIR, layout.SOCKET_DIR)
    if (only is None or "ssl" in only) and tree.certify() and python.cafile.startswith("/"):
        tree.link(python.cafile, CERTIFICATES)
    for zone in zones.zones() if only is None or "zoneinfo" in only else ():
        if zone.same_as is None:
            tree.write(str(zone.source), zone.content)
            tree.sources[str(zone.source)] = stamp(zone.source)
        else:
            tree.link(str(zone.source), os.path.relpath(zone.same_as, zone.source.parent))


def _compile(root: Path, python: Interpreter, files: Mapping[str, bytes], processes: Processes) -> None:
    """The standard library as .pyc alone, most of it zipped; Jiffy's own files keep their source, which people read."""
    library = f"usr/local/{python.platlibdir}/{python.runtime}"
    runtime = root / layout.RUNTIME_DIR.lstrip("/")
    done = bytecode.compile_tree(processes, python.executable, root / library, f"/{library}", sourceless=True)
    ours = bytecode.compile_tree(processes, python.executable, runtime, layout.RUNTIME_DIR)
    for problem in (*done.problems, *ours.problems):
        if problem.file == "os.py" or problem.file in files:
            raise PlatformError(f"{python.runtime} can't compile {problem.file}: {problem.message}")
    for script in _SCRIPTS:
        for unread in (runtime / "__pycache__").glob(f"{script}.*.pyc"):
            unread.unlink()
    stdlib.pack(root / library, python)
