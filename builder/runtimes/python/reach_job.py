"""Runs under a function's interpreter: which modules of the standard library does the function's code name?

Reads the function's and its packages' code, never imports it: every import that stands there is followed, whatever `if`
or function it is in. The job comes as JSON on stdin, the answer goes as JSON to stdout: see reach.py, which starts this
file.
"""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import sys
import warnings

MEMORY_BYTES = 2 * 1024**3
CPU_S = 120
_WORD = re.compile(rb"(?<=\0)[a-z_][a-z0-9_.]{1,40}(?=\0)")


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(5000)
    job = json.load(sys.stdin)
    walk = Walk(job["roots"])
    for name in job["start"]:
        walk.reach(name)
    walk.finish()
    json.dump({"names": sorted(walk.library)}, sys.stdout)


class Walk:
    """Follows imports from module to module in `roots`."""

    def __init__(self, roots: list[str]) -> None:
        self.roots = roots
        self.library: set[str] = set()  # names of the standard library that were met
        self._seen: set[str] = set()
        self._waiting: list[tuple[str, str]] = []  # (module, its file)

    def reach(self, name: str) -> None:
        """`name` and the packages it is in."""
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            part = ".".join(parts[:depth])
            if part not in self._seen:
                self._seen.add(part)
                file = self._file(part)
                if file is not None:
                    self._waiting.append((part, file))
                elif parts[0] in sys.stdlib_module_names:
                    self.library.add(part)

    def finish(self) -> None:
        while self._waiting:
            self._follow(*self._waiting.pop())
        for root in self.roots:
            for folder, _, files in os.walk(root):
                for name in files:
                    if ".so" in name:
                        self._words(os.path.join(folder, name))

    def _file(self, name: str) -> str | None:
        for root in self.roots:
            path = os.path.join(root, *name.split("."))
            for file in (os.path.join(path, "__init__.py"), f"{path}.py"):
                if os.path.isfile(file):
                    return file
        return None

    def _follow(self, module: str, file: str) -> None:
        try:
            with open(file, "rb") as source:
                tree = ast.parse(source.read())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return
        package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.reach(alias.name)
            elif isinstance(node, ast.ImportFrom):
                self._from(node, package)
            elif isinstance(node, (ast.AsyncFunctionDef, ast.Await)):
                self.reach("asyncio")  # which runs it
            elif isinstance(node, ast.Call):
                self._call(node)

    def _from(self, node: ast.ImportFrom, package: str) -> None:
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        start = ".".join([*above, *([node.module] if node.module else [])])
        if start:
            self.reach(start)
            for alias in node.names:
                self.reach(f"{start}.{alias.name}")  # a module, or a name in one

    def _call(self, node: ast.Call) -> None:
        """import_module("x"), __import__("x") with a plain string."""
        called = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        name = first.value if isinstance(first, ast.Constant) else None
        if called in ("import_module", "__import__") and isinstance(name, str) and name[:1] not in ("", "."):
            self.reach(name)

    def _words(self, file: str) -> None:
        """A compiled module imports by strings: take each that is a module's name."""
        with open(file, "rb") as source:
            for word in set(_WORD.findall(source.read())):
                name = word.decode()
                if name.partition(".")[0] in sys.stdlib_module_names:
                    self.library.add(name)


if __name__ == "__main__":
    main()
