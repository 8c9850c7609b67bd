"""The base layer of a Node.js runtime: one executable, the libraries that it links, certificates, Jiffy's own files.

Node carries its standard library, time zones and Unicode data in its executable. Where a distribution keeps parts of
that in files or libraries beside it, they come along.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from builder import elf
from builder.layers import LayerStore, StoredLayer
from builder.runtimes.root import Root, ensure, stamp
from jiffy.contract import layout
from jiffy.contract.errors import BuildFailed

from .node import Node

_HERE = Path(__file__).parent
IN_RUNTIME = ("agent.mjs", "httpevent.mjs", "jiffy_function.mjs", "serve.mjs")
EXECUTABLE = "/usr/local/bin/node"
# Node looks for packages in the folders above a module: for those in /var/task, ES modules included, here.
_PACKAGES = "/var/node_modules"


def layer(store: LayerStore, node: Node) -> tuple[StoredLayer, bool]:
    """The base layer, and whether it was there already. Raises BuildFailed where the host lacks a part of it."""

    def fill(root: Path) -> dict[str, list[int]]:
        tree = Root(root)
        tree.furnish(layout.TASK_DIR, layout.NODE_DEPS_DIR, layout.SOCKET_DIR)
        tree.copy_elf(node.executable, EXECUTABLE)
        program = elf.read(node.executable)
        found = elf.closure(tree.elves, elf.Loader.of_host())
        if program is None or found.missing:
            missing = ", ".join(found.missing) or "an executable"
            raise BuildFailed(f"{node.executable} can't go into an image: {missing} is not on this host")
        tree.copy_libraries(found.found, program)
        for file in node.library:
            tree.copy(file, str(file))
        tree.certify()
        tree.link(_PACKAGES, f"{layout.NODE_DEPS_DIR}/node_modules")
        for name in IN_RUNTIME:
            tree.write(f"{layout.RUNTIME_DIR}/{name}", (_HERE / name).read_bytes())
        tree.trim()
        return tree.sources

    hashed = hashlib.sha256(f"{node.executable} {node.version} {stamp(node.executable)}".encode())
    for name in (*IN_RUNTIME, "base.py", "../root.py"):
        hashed.update(f"\0{name}\0".encode() + (_HERE / name).read_bytes())
    return ensure(store, f"{node.runtime}-{hashed.hexdigest()[:24]}", fill)
