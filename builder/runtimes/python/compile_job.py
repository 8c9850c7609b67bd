"""Runs under a function's interpreter, with limits: compiles the files of a job, and lists one module's names.

Code is parsed and compiled here, never imported. The job comes as JSON on stdin, answers go as JSON lines to stdout:
see bytecode.py, which starts this file as a script. It imports little, since every deploy waits for it to start.
"""

from __future__ import annotations

import ast
import importlib._bootstrap_external as external
import importlib.util
import json
import os
import resource
import sys
import warnings

MEMORY_BYTES = 2 * 1024**3  # compiling needs about 100 times a source's size
CPU_S = 120


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    job = json.load(sys.stdin)
    for name in job["files"]:
        print(json.dumps({"at": name}), flush=True)  # names the culprit if the compiler itself dies
        problem = _compile(job, name)
        if problem is not None:
            print(json.dumps({"problem": {"file": name, "line": problem[0], "message": problem[1]}}))
    if job["names_of"]:
        path = os.path.join(job["root"], job["names_of"])
        print(json.dumps({"names": _top_level(path)}))
        print(json.dumps({"imports": _imports(path)}))


def _compile(job: dict[str, object], name: str) -> tuple[int, str] | None:
    source_path = os.path.join(str(job["root"]), name)
    with open(source_path, "rb") as file:
        source = file.read()
    try:
        tree = ast.parse(source)
        if job["sourceless"]:
            _drop_docstrings(tree)
        code = compile(tree, f"{job['seen_as']}/{name}", "exec", dont_inherit=True, optimize=0)
    except SyntaxError as exc:
        return exc.lineno or 0, f"{type(exc).__name__}: {exc.msg}"
    except (ValueError, RecursionError, MemoryError, OverflowError) as exc:
        return 0, f"{type(exc).__name__}: {exc}"
    hashed = importlib.util.source_hash(source)
    data = external._code_to_hash_pyc(code, hashed, False)  # type: ignore[attr-defined]
    if job["sourceless"]:
        target = source_path + "c"
    else:
        target = importlib.util.cache_from_source(source_path, optimization="")
        os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as out:
        out.write(data)
    if job["sourceless"]:
        os.unlink(source_path)
    return None


def _drop_docstrings(tree: ast.Module) -> None:
    """What `python -OO` does to docstrings, with asserts left alone: a quarter of the standard library's size."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                if isinstance(node, ast.Module):
                    del node.body[0]  # nothing may stand before a `from __future__`
                else:
                    node.body[0] = ast.copy_location(ast.Pass(), first)


def _top_level(path: str) -> list[str] | None:
    """Names that the module at `path` may bind; None when only running it could tell."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: set[str] = set()
    for node in ast.walk(tree):  # inside `if`, `try`, functions with `global` …: generous on purpose
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Global):
            names.update(node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if any(alias.name == "*" for alias in node.names):
                return None
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("globals", "vars"):
            return None
    return None if "__getattr__" in names else sorted(names)


def _imports(path: str) -> list[str]:
    """Top-level packages that the module at `path` can't do without, those of the standard library left out."""
    try:
        with open(path, "rb") as file:
            body = ast.parse(file.read()).body  # not what stands in an `if`, a `try` or a function
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return sorted(names - sys.stdlib_module_names)


if __name__ == "__main__":
    main()
