"""Compile Python sources to .pyc files that are the same bytes every time; and look for a handler in one of them.

This is the builder's half; compile_job.py does the work under the *function's* interpreter, in processes of their own.
The .pyc files are of the unchecked-hash kind: the interpreter compares no times, so a read-only layer with modification
times of 0 starts at full speed.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from builder.processes import Processes

_CHUNKS = 4  # fixed, because what shares a process may share marshal references: it is part of the result
_JOB = Path(__file__).with_name("compile_job.py")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one source file."""

    file: str  # relative
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Compiled:
    problems: tuple[Problem, ...]
    names: tuple[str, ...] | None = None  # of the file that was asked about; None: it may have any
    imports: tuple[str, ...] = ()  # top-level packages which that file needs, beside the standard library


def compile_tree(
    processes: Processes,
    python: Path,
    tree: Path,
    seen_as: str,
    *,
    sourceless: bool = False,
    names_of: str = "",
    timeout_s: float = 120.0,
) -> Compiled:
    """Compile every .py under `tree`; in tracebacks they are files under `seen_as`.

    `sourceless` puts x.pyc in the place of x.py, else it goes into __pycache__. `names_of` is a file whose top-level
    names and imports are wanted. A file that doesn't compile is reported and left alone.
    """
    files = sorted(
        Path(folder, name).relative_to(tree).as_posix()
        for folder, _, names in os.walk(tree)
        for name in names
        if name.endswith(".py")
    )
    chunks = [files[at::_CHUNKS] for at in range(_CHUNKS)] if len(files) > 50 else [files]

    def run(chunk: list[str]) -> list[dict[str, object]]:
        job = {
            "root": str(tree),
            "seen_as": seen_as,
            "files": chunk,
            "sourceless": sourceless,
            "names_of": names_of if names_of in chunk else "",
        }
        return _run(processes, python, json.dumps(job), timeout_s, lines_only=sourceless)

    with ThreadPoolExecutor(min(_CHUNKS, len(os.sched_getaffinity(0)))) as pool:
        answers = [answer for part in pool.map(run, chunks) for answer in part]
    problems = [Problem(**a["problem"]) for a in answers if "problem" in a]  # type: ignore[arg-type]
    names = next((_names(a["names"]) for a in answers if "names" in a), None)
    imports = next((_names(a["imports"]) for a in answers if "imports" in a), None)
    return Compiled(tuple(sorted(problems, key=lambda p: p.file)), names, imports or ())


def _names(found: object) -> tuple[str, ...] | None:
    return tuple(str(name) for name in found) if isinstance(found, list) else None


def _run(
    processes: Processes, python: Path, job: str, timeout_s: float, *, lines_only: bool
) -> list[dict[str, object]]:
    # -P -S -s rather than -I, which would ignore the fixed hash seed and let sets vary.
    # Without sources nobody sees which part of a line failed: columns would be a quarter of the result.
    columns = ("-X", "no_debug_ranges") if lines_only else ()
    command = [str(python), *columns, "-P", "-S", "-s", "-B", str(_JOB)]
    env = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    ended = processes.run(command, env=env, timeout_s=timeout_s, stdin=job)
    lines = [line for line in ended.output.split("\n") if line.startswith("{") and line.endswith("}")]
    answers: list[dict[str, object]] = [json.loads(line) for line in lines if not line.startswith('{"at"')]
    if ended.code != 0:
        last = next((json.loads(line)["at"] for line in reversed(lines) if line.startswith('{"at"')), "?")
        answers.append({"problem": {"file": last, "line": 0, "message": "compiling it took too much time or memory"}})
    return answers
