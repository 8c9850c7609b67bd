"""The Python interpreters of this host, and what a base layer must know about each.

Looks at the interpreter that runs the builder, at PATH, and where pyenv and uv keep theirs. Each is asked once, in a
process of its own. Copies nothing: base.py does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jiffy.contract.errors import BuildFailed

OLDEST = (3, 11)  # what the agent is written for, and the oldest that can start from .pyc files alone
_NEWEST_MINOR = 30  # how far ahead to look
_PROBE_S = 20.0
_PROBE = """
import json, os, sys, sysconfig, importlib.machinery
try:
    import ssl
    verify = ssl.get_default_verify_paths().openssl_cafile
except ImportError:
    verify = ""
print(json.dumps({
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": list(sys.version_info[:3]),
    "implementation": sys.implementation.name,
    "stdlib": os.path.dirname(os.__file__),
    "dynload": next((p for p in sys.path if p.endswith("lib-dynload")), ""),
    "platlibdir": sys.platlibdir,
    "cache_tag": sys.implementation.cache_tag,
    "cafile": verify,
}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One CPython of this host."""

    executable: Path
    version: tuple[int, int, int]
    stdlib: Path
    dynload: Path
    platlibdir: str  # "lib", or "lib64" on some distributions
    cache_tag: str  # "cpython-311"
    cafile: str  # where its OpenSSL looks for certificates; "" without ssl

    @property
    def runtime(self) -> str:
        return f"python{self.version[0]}.{self.version[1]}"


def probe(executable: Path) -> Interpreter | None:
    """The interpreter behind `executable`, or None when it is none that we can use."""
    try:
        done = subprocess.run(
            [str(executable), "-I", "-S", "-c", _PROBE], capture_output=True, check=True, timeout=_PROBE_S, env={}
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    version = tuple(found["version"])
    if found["implementation"] != "cpython" or version[:2] < OLDEST:
        return None
    return Interpreter(
        executable=Path(found["executable"]),
        version=version,
        stdlib=Path(found["stdlib"]),
        dynload=Path(found["dynload"] or Path(found["stdlib"], "lib-dynload")),
        platlibdir=found["platlibdir"],
        cache_tag=found["cache_tag"],
        cafile=found["cafile"],
    )


def find_all(environ: Mapping[str, str] | None = None) -> dict[str, Interpreter]:
    """Runtime name → interpreter. The one that runs the builder comes first and is what "python3" means."""
    result: dict[str, Interpreter] = {}
    own = probe(Path(getattr(sys, "_base_executable", None) or sys.executable))
    if own is not None:
        result[own.runtime] = own
    for runtime, executable in _candidates(os.environ if environ is None else environ):
        if runtime not in result:
            found = probe(executable)
            if found is not None and found.runtime == runtime:
                result[runtime] = found
    return result


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    home = environ.get("HOME", "/root")
    pyenv = Path(environ.get("PYENV_ROOT", f"{home}/.pyenv"), "versions")
    managed = Path(environ.get("XDG_DATA_HOME", f"{home}/.local/share"), "uv", "python")
    shims = str(pyenv.with_name("shims"))  # shell scripts that take 0.1 s each and lead to pyenv/versions
    on_path = [Path(d) for d in environ.get("PATH", "").split(":") if d and d != shims]
    installed = sorted((*pyenv.glob("*/bin"), *managed.glob("*/bin")), key=_by_version, reverse=True)
    for minor in range(_NEWEST_MINOR, OLDEST[1] - 1, -1):
        for folder in (*on_path, *installed):
            if (executable := folder / f"python3.{minor}").is_file():
                yield f"python3.{minor}", executable


def _by_version(folder: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", folder.parent.name))


def choose(runtime: str, known: Mapping[str, Interpreter]) -> Interpreter:
    """The interpreter for a spec's `runtime`. "python3" is the one that runs the builder, else the newest."""
    if runtime == "python3" and known:
        own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return known[own] if own in known else max(known.values(), key=lambda i: i.version)
    if runtime not in known:
        have = ", ".join(sorted(known, key=lambda r: known[r].version)) or "none"
        raise BuildFailed(
            f"runtime {runtime!r} can't be built here: its interpreter is not installed (there is {have})"
        )
    return known[runtime]
