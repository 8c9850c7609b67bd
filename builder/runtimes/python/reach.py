"""What a slim image keeps of the standard library: what the function can reach, what it asks for, what Jiffy needs.

This is the builder's half; reach_job.py does the work under the function's interpreter. rootfs.py leaves out the rest,
and jiffy_library.py, in the image, says so when something is missed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from builder.processes import Processes
from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed

from . import stdlib
from .interpreter import Interpreter

_JOB = Path(__file__).with_name("reach_job.py")
# What the modules of Jiffy's own files import if it is there, and do well without.
_DONE_WITHOUT = ("ssl", "_ssl", "hashlib", "_hashlib", "bz2", "_bz2", "lzma", "_lzma", "_datetime", "_uuid")
# What is imported where no import statement of Jiffy's files says so: by the interpreter, by the archive's finder, by
# socket when it receives descriptors.
_NEEDED_BY_ALL = ("zlib", "array", "__future__", "encodings.idna", "encodings.ascii", "encodings.latin_1")
# Only modules of the standard library are imported, and none of those that stdlib.py leaves out.
_LOADER = """
import json, sys
job = json.load(sys.stdin)
out, sys.stdout = sys.stdout, sys.stderr
sys.modules.update(dict.fromkeys(job["without"]))
for name in job["names"]:
    try:
        __import__(name)
    except Exception:
        pass
print(json.dumps({"names": [name for name, module in sys.modules.items() if module is not None]}), file=out)
"""


def modules(
    code: Path,
    deps: Sequence[Path],
    handler: str,
    keep: Iterable[str],
    files: Mapping[str, bytes],
    python: Interpreter,
    processes: Processes,
    seen: Iterable[str] = (),
) -> frozenset[str]:
    """Names of the standard library's modules that the function's image holds.

    `deps` are the folders of its packages, `files` those of /var/runtime, `seen` what it loaded when it ran. Raises
    BuildFailed when `keep` names what is no module of the standard library.
    """
    there = stdlib.names(python)
    wanted = [name for name in sorted(there) if any(name == one or name.startswith(f"{one}.") for one in keep)]
    for one in keep:
        if one not in there:
            raise BuildFailed(f"keep = [{json.dumps(one)}]: {python.runtime} has no such module in its images")
    job = {"roots": [str(folder) for folder in (code, *deps)], "start": [handler.partition(":")[0]]}
    named = _ask(python, processes, (str(_JOB),), job)
    users = _load(python, processes, [name for name in (*named, *wanted, *seen) if name in there], ())
    own = [*_NEEDED_BY_ALL, *(name for content in files.values() for name in _imports(content))]
    ours = _load(python, processes, [name for name in own if name in there], _DONE_WITHOUT)
    return frozenset(there).intersection((*users, *ours, *wanted, *stdlib.START))


def _load(python: Interpreter, processes: Processes, names: list[str], without: Iterable[str]) -> list[str]:
    """The modules that are there after importing `names`, of the standard library all, where `without` are not."""
    return _ask(python, processes, ("-c", _LOADER), {"names": names, "without": list(without)})


def _ask(python: Interpreter, processes: Processes, program: tuple[str, ...], job: Mapping[str, object]) -> list[str]:
    command = [str(python.executable), "-I", "-S", "-B", *program]
    ended = processes.run(command, env={"LC_ALL": "C.UTF-8"}, timeout_s=limits.BUILD_MAX_S, stdin=json.dumps(job))
    answer = next((line for line in reversed(ended.output.splitlines()) if line.startswith('{"names"')), None)
    if ended.code != 0 or answer is None:
        raise BuildFailed("slim: following the imports took too much time or memory; deploy with slim = false")
    return [str(name) for name in json.loads(answer)["names"]]


def _imports(content: bytes) -> list[str]:
    """What one of Jiffy's own files imports, wherever it stands, but for asyncio: only async code needs it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return [name for name in names if name not in ("asyncio", "typing")]
