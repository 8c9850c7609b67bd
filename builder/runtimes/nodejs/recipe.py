"""How a Node.js function's image comes about: base layer, packages; what is the builder's as a whole is in build.py.

Reads first: `Recipe.make`. The code is checked by Node's own parser, never run.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from builder import lock, source
from builder.layers import LayerStore, StoredLayer
from builder.lock import Lock
from builder.part import WARNING, Part, Source, Step, Tell, size, timed
from builder.processes import Processes
from builder.resolved import Resolved
from jiffy.contract import layout
from jiffy.contract.errors import BuildFailed

from . import base, node, npm, package
from .node import Node

SUFFIXES = (".js", ".mjs", ".cjs")  # in the order in which the agent looks
_CHECK_S = 30.0
# A module's kind may depend on more than its own text: what it is when it runs is for Node to say then.
_OTHER_KIND = ("outside a module", "Unexpected token 'export'")


class Recipe:
    """Of one builder."""

    def __init__(
        self,
        store: LayerStore,
        resolved: Resolved,
        nodes: Mapping[str, Node],
        environ: Mapping[str, str],
        processes: Processes,
    ) -> None:
        self._store = store
        self._resolved = resolved
        self._nodes = nodes
        self._environ = environ
        self._processes = processes
        self._base = threading.Lock()  # one base layer at a time

    def make(self, of: Source, tell: Tell) -> Part:
        """Raises BuildFailed with the one line that its author needs."""
        spec, locked = of.spec, of.locked
        chosen = node.choose(spec.runtime, self._nodes)
        if spec.slim:
            raise BuildFailed("slim = true is for Python: Node.js is one executable, of which nothing can be left out")
        with timed(tell, "unpack") as unpacked:
            unpacked.bytes = source.unpack(of.archive, of.digest, of.code)
            self._check(of.code, spec.handler, chosen)
            wanted = package.read(of.code)
            if locked is not None:
                locked.check(wanted.requirements if wanted is not None else ())
            unpacked.text = f"{spec.handler} found in {size(unpacked.bytes)} of source"
        with timed(tell, "base") as based, self._base:
            stored, based.cached = base.layer(self._store, chosen)
            based.bytes = stored.layer.size_bytes
            based.text = f"{chosen.runtime} base layer, {size(based.bytes)}"
        layers, lines = [stored], locked
        if wanted is not None:
            if locked is not None:
                document = json.loads("\n".join(locked.lines))
                wanted = package.Wanted(wanted.manifest, package.parse_lock(document, wanted.manifest))
            layer, lines = self._packages(wanted, chosen, of, tell)
            layers.append(layer)
        command = base.EXECUTABLE, f"{layout.RUNTIME_DIR}/serve.mjs"
        return Part(chosen.runtime, layers, unpacked.bytes, command, lines, "Node.js, shared libraries, Jiffy's agent")

    def _packages(self, wanted: package.Wanted, chosen: Node, of: Source, tell: Tell) -> tuple[StoredLayer, Lock]:
        def make(tree: Path) -> tuple[str, ...]:
            return npm.install(
                wanted,
                tree,
                node=chosen,
                cache=self._store.data / layout.CACHE / "npm",
                say=lambda line: tell(Step("deps", line)),
                warn=lambda line: tell(Step(WARNING, line)),
                environ=self._environ,
                processes=self._processes,
                whole=of.spec.whole,
            )

        with timed(tell, "deps") as step:
            key = npm.key(wanted, chosen, of.spec.whole)
            stored, lines, step.cached = self._resolved.layer(key, of.folder, layout.NODE_DEPS_DIR, make)
            step.bytes = stored.layer.size_bytes
            step.text = f"dependency layer, {size(step.bytes)}"
        return stored, Lock(lock.digest(wanted.requirements), lines)

    def _check(self, code: Path, handler: str, chosen: Node) -> None:
        """Is the handler's module there, and can it be parsed? Raises BuildFailed."""
        module, _, _ = handler.partition(":")
        names = [f"{stem}{suffix}" for stem in (module.replace(".", "/"), module) for suffix in SUFFIXES]
        name = next((name for name in names if (code / name).is_file()), None)
        if name is None:
            there = sorted(p.name for p in code.iterdir() if p.suffix in SUFFIXES)
            found = (
                f"the folder's modules are {', '.join(there[:8])}" if there else "the folder has no module at its top"
            )
            raise BuildFailed(f"handler's module {module!r} is not there: neither {' nor '.join(names[:3])}; {found}")
        command = [str(chosen.executable), "--check", name]
        ended = self._processes.run(command, env={"PATH": "/usr/bin:/bin"}, timeout_s=_CHECK_S, cwd=code)
        said = re.search(r"^(SyntaxError: .*)$", ended.output, re.MULTILINE)
        if ended.code != 0 and said and not any(kind in said[1] for kind in _OTHER_KIND):
            line = re.search(r":(\d+)$", ended.output.splitlines()[0])
            where = f", line {line[1]}" if line else ""
            raise BuildFailed(f"{name}{where}: {said[1]}")
