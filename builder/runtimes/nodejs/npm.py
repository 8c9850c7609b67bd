"""A function's packages, by way of the host's npm. Nothing of a package runs on this host: no scripts, no git.

Owns npm's command line and environment, and what is left out of the result. It may reach the registry that the
builder's own environment or .npmrc names, and that alone; what may be asked for is package.py's to say.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.processes import Processes
from jiffy.contract import limits
from jiffy.contract.errors import BuildFailed

from . import package
from .node import Node
from .package import Wanted

RECIPE = 1  # raise it when this file changes what a dependency layer holds
_REASON_MAX_CHARS = 1000
_PASSED = re.compile(r"(?:https?|all|no)_proxy|npm_config_\w+|ssl_cert_(?:file|dir)|node_extra_ca_certs", re.IGNORECASE)
_OPTIONS: tuple[str, ...] = ("--ignore-scripts", "--omit=dev", "--no-bin-links", "--git=/bin/false")
_OPTIONS += ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--no-color", "--no-progress")
_OPTIONS += ("--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=5000")  # else a wrong file takes minutes
_LEFT_OUT = (  # what can't be used at run time
    re.compile(r".*\.d\.[cm]?ts(?:\.map)?|.*\.tsbuildinfo"),  # types
    re.compile(r".*\.[cm]?js\.map"),  # source maps
    re.compile(
        r"(?:readme|change(?:s|log)|history|news|authors|contribut\w+)(?:\.(?:md|markdown|txt))?", re.IGNORECASE
    ),
)


def key(wanted: Wanted, node: Node, whole: tuple[str, ...]) -> str:
    """Names the layer that this makes here."""
    host = (node.runtime, platform.machine(), *platform.libc_ver())
    asked = json.dumps([wanted.manifest, wanted.lock, sorted(whole)], sort_keys=True)
    return f"{node.runtime}-{hashlib.sha256(repr((RECIPE, host, asked)).encode()).hexdigest()}"


def install(
    wanted: Wanted,
    into: Path,
    *,
    node: Node,
    cache: Path,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    environ: Mapping[str, str],
    processes: Processes,
    whole: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Install into the new folder `into`, as its node_modules. Returns the lines of the lock.

    `whole` names packages of which nothing is left out. Raises BuildFailed with npm's reason.
    """
    if node.npm is None:
        raise BuildFailed(f"package.json asks for packages, and {node.executable} has no npm beside it: install npm")
    work = into.with_name("npm")
    (work / "home").mkdir(parents=True)
    env = environment(environ, work / "home", node)
    base = [str(node.executable), str(node.npm)]
    options = [*_OPTIONS, f"--cache={cache}"]
    (work / package.MANIFEST).write_text(json.dumps(wanted.manifest))

    def run(*words: str) -> None:
        ended = processes.run([*base, *words, *options], env=env, cwd=work, timeout_s=limits.BUILD_MAX_S)
        if ended.late:
            raise BuildFailed(f"dependencies: installing them took longer than {limits.BUILD_MAX_S:g} s")
        if ended.code != 0:
            raise BuildFailed(f"dependencies: {reason(ended.output)}")

    lock = wanted.lock
    if lock is None:
        run("install", "--package-lock-only")
        lock = package.parse_lock(json.loads((work / package.LOCK).read_text()), wanted.manifest)
    (work / package.LOCK).write_text(text := json.dumps(lock, indent=1, sort_keys=True))
    run("ci")
    into.mkdir()
    (work / "node_modules").mkdir(exist_ok=True)
    (work / "node_modules").rename(into / "node_modules")
    _report(lock, say, warn)
    _clean(into / "node_modules", whole, say)
    return tuple(text.splitlines())


def environment(environ: Mapping[str, str], home: Path, node: Node) -> dict[str, str]:
    """What npm finds: the network's settings and npm's, as the builder has them, and nothing else."""
    settings = {name: value for name, value in environ.items() if _PASSED.fullmatch(name)}
    known = {name.lower() for name in settings}
    own = Path(environ.get("HOME", "/nonexistent"), ".npmrc")
    if "npm_config_userconfig" not in known and own.is_file():
        settings["npm_config_userconfig"] = str(own)
    return {"HOME": str(home), "PATH": f"{node.executable.parent}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", **settings}


def reason(output: str) -> str:
    """The lines of npm's output that say why, as one line. Of a 404 the first one says it, and the rest is advice."""
    lines = [re.sub(r"^npm (?:error|ERR!)\s*(?:code \S+)?\s*", "", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("A complete log", "npm warn", "npm notice"))]
    told = lines[0].removeprefix("404 ") if lines and lines[0].startswith("404 ") else ": ".join(lines)
    told = told or "npm failed and gave no reason"
    return told if len(told) <= _REASON_MAX_CHARS else told[: _REASON_MAX_CHARS - 1] + "…"


def _report(
    lock: Mapping[str, Mapping[str, Mapping[str, object]]], say: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    for place, entry in lock["packages"].items():
        name = place.rpartition("node_modules/")[2]
        if place:
            say(f" + {name}@{entry['version']}")
        if entry.get("hasInstallScript"):
            warn(f"{name} has an install script, which is not run")


def _clean(modules: Path, whole: tuple[str, ...], say: Callable[[str], None]) -> None:
    """Leave out what differs from one installation to the next, links, and what can't be used at run time."""
    (modules / ".package-lock.json").unlink(missing_ok=True)
    shutil.rmtree(modules / ".bin", ignore_errors=True)
    saved = 0
    kept = tuple(f"{name}/" for name in whole)
    for path in sorted(modules.rglob("*")):
        useless = any(rule.fullmatch(path.name) for rule in _LEFT_OUT)
        if path.is_symlink():
            path.unlink()
        elif useless and path.is_file() and not path.relative_to(modules).as_posix().startswith(kept):
            saved += path.stat().st_size
            path.unlink()
    if saved >= limits.MIB / 10:
        say(f"left out {saved / limits.MIB:.1f} MiB that nothing uses: types, source maps, texts")
