"""Requirements → a folder of installed packages, by way of uv. Wheels only: nothing of a package runs on this host.

Owns what a requirements file may say, the resolver's command line and environment, and what is left out of the result.
The resolver may reach the package index that the builder's own environment names, and that alone: a line that points
elsewhere (a path, a URL, an option) is refused. Which layer comes of it is build.py's business.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import uv

from builder import libraries, pruning
from builder.processes import Processes
from builder.runtimes.python import bytecode
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract import layout, limits
from jiffy.contract.errors import BuildFailed

RECIPE = 4  # raise it when this file changes what a dependency layer holds
_FILE_MAX_BYTES = 256 * 1024
_LINE_MAX_CHARS = 1024  # hashes aside, of which a locked line has many; the longest real markers take half
_PROJECT_MAX_CHARS, _PROJECT_LINE_MAX_CHARS = 64 * 1024, 4096  # tomllib takes a dotted key in the square of its dots
_REASON_MAX_CHARS = 1000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*(?P<rest>.*)")
_VERSION = r"(?:===?|[!<>~]=|[<>])\s*[A-Za-z0-9.*+!_-]+"
# A comma between versions, so that there is one way to read a line: several make a hostile one take for ever.
_REST = re.compile(rf"(?:\(?\s*{_VERSION}(?:\s*,\s*{_VERSION})*\s*,?\s*\)?)?\s*(?:;.*)?")
_HASH = re.compile(r"\s--hash[= ]sha(?:256|384|512):[0-9a-f]+")
_ARCHIVE = re.compile(r"\.(?:whl|zip|tar\.\w+|tgz|egg)$", re.IGNORECASE)
# The network's settings, as the builder has them. Nothing else of its environment reaches the resolver.
_PASSED = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "all_proxy", "no_proxy"})
_OURS = frozenset({"UV_CACHE_DIR", "UV_NO_CACHE", "UV_CONFIG_FILE", "UV_TARGET", "UV_PYTHON", "UV_LINK_MODE"})
_PIP = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX", "PIP_CERT": "SSL_CERT_FILE"}


def requirements(code: Path) -> tuple[str, ...]:
    """What the folder asks for: requirements.txt, else pyproject.toml's dependencies. Raises BuildFailed."""
    listed, project = code / "requirements.txt", code / "pyproject.toml"
    if listed.is_file():
        lines = _read(listed).replace("\\\n", " ").splitlines()
        stripped = [(number, re.sub(r"(^|\s)#.*", "", line).strip()) for number, line in enumerate(lines, 1)]
        return tuple(_check(line, f"requirements.txt, line {number}") for number, line in stripped if line)
    if project.is_file():
        return _of_project(_read(project))
    return ()


def _read(path: Path) -> str:
    if path.stat().st_size > _FILE_MAX_BYTES:
        raise BuildFailed(f"{path.name} is larger than {_FILE_MAX_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise BuildFailed(f"{path.name} is not UTF-8: {exc}") from exc


def _of_project(text: str) -> tuple[str, ...]:
    if len(text) > _PROJECT_MAX_CHARS or max(map(len, text.splitlines()), default=0) > _PROJECT_LINE_MAX_CHARS:
        bounds = f"{_PROJECT_MAX_CHARS} characters, or a line of more than {_PROJECT_LINE_MAX_CHARS}"
        raise BuildFailed(f"pyproject.toml has more than {bounds}; a requirements.txt beside it is read in its place")
    try:
        project = tomllib.loads(text).get("project", {})
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise BuildFailed(f"pyproject.toml: not valid TOML: {exc}") from exc
    if not isinstance(project, dict):
        raise BuildFailed("pyproject.toml: project must be a table")
    if "dependencies" in (project.get("dynamic") or ()):
        raise BuildFailed("pyproject.toml: its dependencies are dynamic; list them, or write a requirements.txt")
    found = project.get("dependencies", [])
    if not isinstance(found, list) or not all(isinstance(d, str) for d in found):
        raise BuildFailed("pyproject.toml: project.dependencies must be a list of strings")
    return tuple(_check(line.strip(), "pyproject.toml, project.dependencies") for line in found)


def _check(line: str, where: str) -> str:
    """`line` if it names packages of the index. The resolver checks the rest of the grammar."""
    bare = _HASH.sub("", line).strip()
    shown = repr(bare if len(bare) <= 80 else bare[:77] + "…")
    if len(bare) > _LINE_MAX_CHARS:
        raise BuildFailed(f"{where}: {shown} is longer than {_LINE_MAX_CHARS} characters")
    if not bare.isprintable():
        raise BuildFailed(f"{where}: {shown} has characters that can't be printed")
    if bare.startswith("-"):
        raise BuildFailed(f"{where}: {shown} is an option; only packages of the index are allowed")
    if "://" in bare or " @" in bare or re.match(r"[^;]*@", bare):
        raise BuildFailed(f"{where}: {shown} points to a URL or a repository; only packages of the index are allowed")
    if bare.startswith((".", "/", "~")) or "/" in bare.partition(";")[0] or _ARCHIVE.search(bare.partition(";")[0]):
        raise BuildFailed(f"{where}: {shown} is a path; only packages of the index are allowed")
    match = _NAME.fullmatch(bare)
    if match is None or _REST.fullmatch(match["rest"]) is None:
        raise BuildFailed(f'{where}: {shown} is no requirement; write NAME, or NAME with versions such as "pillow>=10"')
    return line


def key(lines: tuple[str, ...], python: Interpreter, needs: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> str:
    """Names the layer that these requirements make here. The same text gives the same layer until it changes.

    `needs`: libraries that the function's own files need. `whole`: packages that are not pruned.
    """
    host = (python.runtime, platform.machine(), *platform.libc_ver())
    text = "\n".join((str(RECIPE), *host, *sorted(lines), *sorted(needs), *sorted(whole)))
    return f"{python.runtime}-{hashlib.sha256(text.encode()).hexdigest()}"


def install(
    lines: tuple[str, ...],
    into: Path,
    *,
    python: Interpreter,
    cache: Path,
    base: Path,
    say: Callable[[str], None],
    environ: Mapping[str, str],
    processes: Processes,
    own: tuple[Path, ...] = (),
    whole: tuple[str, ...] = (),
    locked: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Install `lines` into the new folder `into`. `base` is the unpacked base layer that they will run on.

    Returns what they came to: a line for each package with its version and hashes; `locked` are such lines to take.

    `own` are native files of the function, which may need libraries too; `whole` names packages that are not pruned.
    `say` gets the resolver's lines as they come, and what was left out. Raises BuildFailed with the resolver's reason.
    """
    into.mkdir()
    resolver = _Uv(into.with_name("resolver"), python, cache, environ, processes)
    if lines:
        locked = locked or resolver.resolve(lines)
        resolver.install(locked, into, say)
        _clean(into)
        _prune(into, whole, say)
        say("compiling")
    _complete_libraries(into, base, python, own)
    bytecode.compile_tree(processes, python.executable, into, layout.DEPS_DIR, timeout_s=limits.BUILD_MAX_S)
    return locked


class _Uv:
    """The resolver and installer, in a folder of its own."""

    def __init__(
        self, work: Path, python: Interpreter, cache: Path, environ: Mapping[str, str], processes: Processes
    ) -> None:
        self._work, self._processes = work, processes
        self._environ = resolver_environment(environ, work)
        self._options = ["--python", str(python.executable), "--only-binary", ":all:", "--no-config"]
        self._options += ["--cache-dir", str(cache), "--no-progress", "--color", "never"]

    def resolve(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        """A line for each package that `lines` come to, with its version and the hashes of its files."""
        out = self._work / "lock.txt"
        self._run("compile", lines, ["--generate-hashes", "--no-header", "--no-annotate", "--output-file", str(out)])
        joined = out.read_text().replace("\\\n", " ").splitlines()
        return tuple(" ".join(line.split()) for line in joined if line.strip() and not line.startswith("#"))

    def install(self, lines: tuple[str, ...], into: Path, say: Callable[[str], None]) -> None:
        def tell(line: str) -> None:
            if line.startswith(("Resolved ", "Downloading ", "Downloaded ", "Prepared ", "Installed ", " + ")):
                say(line.strip()[:200])

        self._run("install", lines, ["--target", str(into), "--link-mode", "copy", "--requirements"], tell)

    def _run(
        self, command: str, lines: tuple[str, ...], options: list[str], say: Callable[[str], None] | None = None
    ) -> None:
        self._work.mkdir(exist_ok=True)
        asked = self._work / f"{command}.txt"
        asked.write_text("\n".join(lines) + "\n")
        ended = self._processes.run(
            [uv.find_uv_bin(), "pip", command, *self._options, *options, str(asked)],
            env=self._environ,
            cwd=self._work,
            timeout_s=limits.BUILD_MAX_S,
            say=say,
        )
        if ended.late:
            raise BuildFailed(f"dependencies: installing them took longer than {limits.BUILD_MAX_S:g} s")
        if ended.code != 0:
            raise BuildFailed(f"dependencies: {reason(ended.output)}")


def resolver_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    for name, value in environ.items():
        if name in _PASSED or name.lower() in _PASSED or (name.startswith("UV_") and name not in _OURS):
            env[name] = value
    for theirs, ours in _PIP.items():
        if theirs in environ:
            env.setdefault(ours, environ[theirs])
    return env


def reason(output: str) -> str:
    """The lines of uv's output that say why, as one line."""
    lines = [re.sub(r"^[\s×╰─▶│├]+|^(?:error|cause|Caused by):\s*", "", line).strip() for line in output.splitlines()]
    told = ": ".join(line for line in lines if line and not line.startswith(("Using ", "Resolved ", "Prepared ")))
    told = told or "the resolver failed and gave no reason"
    return told if len(told) <= _REASON_MAX_CHARS else told[: _REASON_MAX_CHARS - 1] + "…"


def _clean(into: Path) -> None:
    """Leave out what differs from one installation to the next, and commands: there is no shell to give them."""
    shutil.rmtree(into / "bin", ignore_errors=True)
    for name in (".lock", "CACHEDIR.TAG", ".gitignore"):
        (into / name).unlink(missing_ok=True)
    for folder in [*into.rglob("__pycache__")]:
        shutil.rmtree(folder)
    for record in [*into.glob("*.dist-info/uv_cache.json"), *into.glob("*.dist-info/REQUESTED")]:
        record.unlink()


def _prune(into: Path, whole: tuple[str, ...], say: Callable[[str], None]) -> None:
    saved = {name: rule for name, rule in pruning.prune(into, whole).items() if rule.files}
    total = sum(rule.bytes for rule in saved.values())
    if total:
        parts = [f"{name} {rule.bytes / 1024:.0f} KiB" for name, rule in saved.items() if rule.bytes >= 512]
        say(f"left out {total / limits.MIB:.1f} MiB that nothing uses: {', '.join(parts)}")


def _complete_libraries(into: Path, base: Path, python: Interpreter, own: tuple[Path, ...]) -> None:
    """Bring what portable wheels may expect of a system.

    Raises BuildFailed when an extension module needs a library that neither the image nor a package has.
    """
    bundled = libraries.native(into)
    suffixes = (f".{python.cache_tag}", ".abi3.so")
    modules = [p for p in bundled if f".{python.cache_tag}-" in p.name or p.name.endswith(suffixes)]
    folder = into / Path(libraries.FOLDER).name
    for name, by in libraries.complete([*modules, *own], [*bundled, *own], base, folder).items():
        if by in own:
            continue  # their author's to know
        file = by.relative_to(into).as_posix() if by.is_relative_to(into) else by.name
        raise BuildFailed(f"dependencies: {file} needs {name}, which the image doesn't have and no package brings")
