"""The executable called `bootstrap`: can it run here, and what does it need beside itself?

Reads ELF files, never runs them. The base layer that comes of it holds the shared libraries which some ELF file of the
function needs and doesn't bring, their loader, and the few files of /etc: nothing of ours. How it gets its events:
invoker/runtime_api.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from builder import elf
from builder.layers import LayerStore, StoredLayer
from builder.runtimes.root import Root, ensure, stamp
from jiffy.contract import layout
from jiffy.contract.errors import BuildFailed

NAME = "bootstrap"
_SCRIPT = re.compile(rb"#!\s*(?:/usr/local/bin/|/usr/bin/|/usr/bin/env )(python3(?:\.\d{1,2})?)\s*\n")
_FIRST_LINE_BYTES = 256
_SELF = Path("/proc/self/exe")


def check(code: Path) -> str:
    """Make sure that `bootstrap` is one, executable; the Python that it asks for when it is a script, else "".

    Raises BuildFailed.
    """
    path = code / NAME
    if not path.is_file() or path.is_symlink():
        raise BuildFailed(
            f'runtime = "provided" runs an executable called {NAME} at the top of the folder, and there is none: '
            "build it first, and see that .gitignore or .jiffyignore doesn't leave it out"
        )
    path.chmod(0o755)
    with path.open("rb") as file:
        first = file.read(_FIRST_LINE_BYTES)
    if first.startswith(elf.MAGIC):
        found, host = elf.read(path), elf.read(_SELF)
        if found is None or host is None or not found.fits(host):
            raise BuildFailed(f"{NAME} was built for another kind of machine than this one, or is damaged")
        return ""
    if script := _SCRIPT.match(first):
        return script[1].decode()
    raise BuildFailed(f"{NAME} is neither an ELF executable nor a script for Python (#!/usr/local/bin/python3)")


def base(store: LayerStore, code: Path, *, network: bool) -> tuple[StoredLayer, bool]:
    """The base layer of an ELF `bootstrap`, and whether it was there already. Raises BuildFailed.

    Certificates are part of it for a function that may open connections.
    """
    files = sorted(path for path in code.rglob("*") if path.is_file() and not path.is_symlink() and elf.is_elf(path))
    program = elf.read(code / NAME)
    assert program is not None, "check was called"
    found = elf.closure(files, _loader(code))
    for name, by in sorted(found.missing.items()):
        raise BuildFailed(
            f"{by.relative_to(code) if by.is_relative_to(code) else by} needs {name}, which is neither in your folder "
            "nor on this host: link it statically, or put it into lib/"
        )
    if program.interpreter and not Path(program.interpreter).is_file():
        raise BuildFailed(f"{NAME} needs the loader {program.interpreter}, which this host lacks: link it statically")
    outside = {name: path for name, path in found.found.items() if not path.is_relative_to(code)}

    def fill(root: Path) -> dict[str, list[int]]:
        tree = Root(root)
        tree.furnish(layout.TASK_DIR, layout.DEPS_DIR, layout.SOCKET_DIR)
        tree.copy_libraries(outside, program)
        if network:
            tree.certify()
        tree.trim()
        return tree.sources

    identity = [program.interpreter, network, sorted((str(path), stamp(path)) for path in outside.values())]
    ours = (Path(__file__).read_bytes(), Path(__file__).parent.with_name("root.py").read_bytes())
    hashed = hashlib.sha256(json.dumps(identity).encode() + b"".join(ours))
    return ensure(store, f"provided-{hashed.hexdigest()[:24]}", fill)


def _loader(code: Path) -> elf.Loader:
    """The host's, which looks first where LD_LIBRARY_PATH leads in a sandbox."""
    host = elf.Loader.of_host()
    own = {path.name: path for folder in (code / "lib", code) for path in folder.glob("*.so*") if path.is_file()}
    return elf.Loader({**host.cache, **{name: (path, *host.cache.get(name, ())) for name, path in own.items()}})
