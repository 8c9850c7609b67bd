"""The Node.js interpreters of this host, and what a base layer must know about each.

Looks at PATH, and where nvm, fnm and n keep theirs. Each is asked once, in a process of its own. Copies nothing:
base.py does.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jiffy.contract.errors import BuildFailed

OLDEST = 18  # what the agent is written for
NO_NODES: Mapping[str, Node] = {}
_PROBE_S = 20.0
# Distributions may keep parts of Node's own library in files beside it.
_PROBE = """
const path = require("node:path");
const own = process.config.variables.node_builtin_shareable_builtins ?? [];
console.log(JSON.stringify({
  executable: process.execPath,
  version: process.versions.node,
  library: own.filter((file) => path.isAbsolute(file)),
}));
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One Node.js of this host."""

    executable: Path
    version: tuple[int, int, int]
    library: tuple[Path, ...]  # files of its own library that aren't inside the executable
    npm: Path | None  # the script of its npm

    @property
    def runtime(self) -> str:
        return f"nodejs{self.version[0]}"


def probe(executable: Path) -> Node | None:
    """The Node.js behind `executable`, or None when it is none that we can use."""
    try:
        done = subprocess.run(
            [str(executable), "-e", _PROBE], capture_output=True, check=True, timeout=_PROBE_S, env={}
        )
        found = json.loads(done.stdout)
        major, minor, patch = (int(number) for number in re.findall(r"\d+", found["version"])[:3])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    if major < OLDEST:
        return None
    real = Path(found["executable"])
    npm = next((p.resolve() for p in (executable.with_name("npm"), real.with_name("npm")) if p.is_file()), None)
    library = tuple(Path(file) for file in found["library"])
    return Node(real, (major, minor, patch), library, npm if npm is not None and npm.suffix == ".js" else None)


def find_all(environ: Mapping[str, str]) -> dict[str, Node]:
    """Runtime name → Node.js. The first on PATH is the first, and what "nodejs" means."""
    found: dict[str, Node] = {}
    for executable in dict.fromkeys(path.resolve() if not _linked(path) else path for path in _candidates(environ)):
        node = probe(executable)
        if node is not None:
            found.setdefault(node.runtime, node)
    return found


def _linked(path: Path) -> bool:
    """Is npm beside the link rather than beside what it leads to?"""
    return path.with_name("npm").is_file()


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME", "/root"))
    folders = [Path(folder) for folder in environ.get("PATH", "").split(":") if folder]
    managed = (
        (Path(environ.get("NVM_DIR", home / ".nvm"), "versions", "node"), "v*/bin"),
        (Path(environ.get("FNM_DIR", home / ".local/share/fnm"), "node-versions"), "v*/installation/bin"),
        (Path(environ.get("N_PREFIX", "/usr/local"), "n/versions/node"), "*/bin"),
    )
    for place, pattern in managed:
        folders += sorted(place.glob(pattern), key=_by_version, reverse=True)
    for folder in folders:
        for name in ("node", "nodejs"):
            if (folder / name).is_file():
                yield folder / name


def _by_version(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(folder)))


def choose(runtime: str, known: Mapping[str, Node]) -> Node:
    """The Node.js for a spec's `runtime`. Raises BuildFailed."""
    if runtime == "nodejs" and known:
        return next(iter(known.values()))
    if runtime not in known:
        have = ", ".join(known) or "none"
        raise BuildFailed(
            f"runtime {runtime!r} can't be built here: this host has no such Node.js (there is {have}, of {OLDEST} "
            "and later); install it where the builder runs"
        )
    return known[runtime]
