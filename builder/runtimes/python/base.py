"""The base layer of a Python runtime, and Jiffy's own files in it (/var/runtime). What else it holds: rootfs.py.

`ensure` is the door: it makes the layer once, and again only when one of the host's files it came from has changed.

The digest is the same on one machine in any folder, umask, locale and hour. It differs between machines whose Python,
C library, certificates or time zone data differ.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Mapping
from pathlib import Path

from builder.layers import LayerStore, StoredLayer
from builder.processes import Processes
from builder.runtimes import root
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Layer

from . import interpreter, rootfs
from .interpreter import Interpreter

_HERE = Path(__file__).parent
IN_RUNTIME = (
    *("agent.py", "jiffy_frames.py", "jiffy_function.py", "jiffy_log.py", "jiffy_nursery.py", "jiffy_process.py"),
    *("jiffy_stream.py", "serve.py"),
)


def ensure(data: Path, runtime: str = "python3") -> Layer:
    """The base layer of `runtime`, unpacked at ``layout.layer_tree(data, layer.digest)``; made now if need be."""
    python = interpreter.choose(runtime, interpreter.find_all())
    return ensure_for(LayerStore(data), python, Processes())[0].layer


def runtime_files() -> dict[str, bytes]:
    """What goes into /var/runtime. The agent may count on these files alone."""
    try:
        files = {name: (_HERE / name).read_bytes() for name in IN_RUNTIME}
    except FileNotFoundError as exc:
        raise PlatformError(f"this installation lacks {exc.filename}") from exc
    contract = importlib.resources.files("jiffy.contract")
    return files | {"httpevent.py": (contract / "httpevent.py").read_bytes()}


def ensure_for(
    store: LayerStore,
    python: Interpreter,
    processes: Processes,
    files: Mapping[str, bytes] | None = None,
    only: frozenset[str] | None = None,
) -> tuple[StoredLayer, bool]:
    """The layer, and whether it was there already. `files` replaces `runtime_files()`.

    `only` are the modules of the standard library that a slim image holds.
    """
    files = runtime_files() if files is None else files
    key = _key(python, files, only)
    return root.ensure(store, key, lambda folder: rootfs.fill(folder, python, files, processes, only))


def _key(python: Interpreter, files: Mapping[str, bytes], only: frozenset[str] | None) -> str:
    hashed = hashlib.sha256(f"{python} {sorted(only) if only is not None else 'all'}".encode())
    for name in (
        "../root.py",
        "rootfs.py",
        "stdlib.py",
        "zones.py",
        "jiffy_library.py",
        "bytecode.py",
        "compile_job.py",
    ):
        hashed.update((_HERE / name).read_bytes())
    for name in sorted(files):
        hashed.update(f"\0{name}\0".encode() + files[name])
    return f"{python.runtime}-{hashed.hexdigest()[:24]}"
