"""Is the handler there? Compiles a function's code with its interpreter and looks for the handler's name.

Reads code, never imports it: what only running could tell (a name made by `setattr`) is given the benefit of the doubt.
Compiling leaves __pycache__ folders behind, which are part of the code layer: the first import in a sandbox is faster.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from builder.processes import Processes
from jiffy.contract import layout
from jiffy.contract.errors import BuildFailed

from . import bytecode
from .interpreter import Interpreter


def check(code: Path, handler: str, python: Interpreter, processes: Processes) -> tuple[str, ...]:
    """The top-level packages that the handler's module imports, beside the standard library.

    Raises BuildFailed with file, line and message when `handler` ("module:attribute") can't work.
    """
    module, _, attribute = handler.partition(":")
    name = _find(code, module)
    done = bytecode.compile_tree(processes, python.executable, code, layout.TASK_DIR, names_of=name)
    for problem in done.problems:
        if problem.file in (name, *_parents(module)):
            line = f", line {problem.line}" if problem.line else ""
            raise BuildFailed(f"{problem.file}{line}: {problem.message}")
    if done.names is not None and attribute not in done.names:
        close = difflib.get_close_matches(attribute, done.names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BuildFailed(f"{name} has no {attribute!r}, which handler = {handler!r} asks for{hint}")
    return done.imports


def missing(imports: tuple[str, ...], trees: Iterable[Path]) -> tuple[str, ...]:
    """Those of `imports` that are in none of these folders."""
    folders = tuple(trees)
    return tuple(name for name in imports if not any(_holds(folder, name) for folder in folders))


def _holds(folder: Path, name: str) -> bool:
    place = folder / name
    return place.is_dir() or place.with_suffix(".py").is_file() or any(folder.glob(f"{name}.*so"))


def _find(code: Path, module: str) -> str:
    """The module's file, relative to `code`."""
    path = module.replace(".", "/")
    for name in (f"{path}/__init__.py", f"{path}.py"):  # in the order in which Python looks
        if (code / name).is_file():
            return name
    there = sorted(p.relative_to(code).as_posix() for p in code.glob("*.py"))
    found = f"the folder's modules are {', '.join(there[:8])}" if there else "the folder has no module at its top"
    raise BuildFailed(f"handler's module {module!r} is not there: neither {path}.py nor {path}/__init__.py; {found}")


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return ["/".join([*parts[:depth], "__init__.py"]) for depth in range(1, len(parts))]
