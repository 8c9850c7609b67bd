"""Removes from a data folder the layers, images and blobs that are not needed: the hands of retention.py.

A layer may lie under a sandbox that nobody tells of any more, so the moment at which it was first seen to be unneeded
is written down, and it goes in a later pass. A builder touches what it finds; so each thing is moved aside first and
looked at once more: what was touched meanwhile goes back. A builder finds a thing whole or not at all, and makes it
anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import image
from builder.layers import LayerStore
from jiffy.contract import layout
from jiffy.contract.errors import NotFound

_ASIDE = ".going-"


@dataclass(frozen=True, slots=True)
class Swept:
    """How much went, or would; `waiting` is what is not needed, and not for long enough yet."""

    layers: int
    images: int
    blobs: int
    bytes: int
    waiting: int
    waiting_bytes: int


def sweep(
    store: LayerStore, needed: frozenset[str], refs: frozenset[str], now: float, grace_s: float, *, dry: bool
) -> Swept:
    """`needed` are digests of layers, `refs` names of images ("tenant/function:number"); `now` is time.time().

    `dry`: change nothing.
    """
    data, before = store.data, now - grace_s
    with _alone(data):
        unused = [path for path in _layers(data) if _digest(path) not in needed]
        seen = _read(_seen(data))
        first = {path.name: float(seen.get(path.name, now)) for path in unused}
        sizes = {path: _size(path) for path in unused}
        going = [path for path in unused if first[path.name] <= before and _touched(path) <= before]
        named = image.names(data)
        old = [ref for ref in named if ref not in refs and _touched(image.blob_path(data, named[ref])) <= before]
        if not dry:
            going = [path for path in going if _remove(path, before)]
            image.forget(data, old)
            _write(_seen(data), {name: when for name, when in first.items() if (data / layout.LAYERS / name).exists()})
            _forget_notes(data)
        linked = _linked(data, set(named.values()) - {named[ref] for ref in old}, set(_layers(data)) - set(going))
        loose = [path for path in _blobs(data) if path.name not in linked]
        sizes |= {path: _size(path) for path in loose}
        ripe = [path for path in loose if _touched(path) <= before]
        if not dry:
            ripe = [path for path in ripe if _remove(path, before)]
        rest = [path for path in (*unused, *loose) if path not in going and path not in ripe]
        return Swept(
            *(len(going), len(old), len(ripe), sum(sizes[path] for path in (*going, *ripe))),
            *(len(rest), sum(sizes[path] for path in rest)),
        )


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """One sweep at a time; the next one begins with what this one left."""
    with layout.lock(data, "sweep").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in (data / layout.LAYERS).glob(f"{_ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _remove(path: Path, before: float) -> bool:
    """False: somebody was faster, or a builder found it in the moment before it went."""
    aside = path.with_name(f"{_ASIDE}{path.name}")
    try:
        path.rename(aside)
        if _touched(aside) > before:
            with suppress(OSError):  # it has been made anew meanwhile
                aside.rename(path)
                return False
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    except FileNotFoundError:
        return False
    return True


# --- what there is --------------------------------------------------------------------------------------------


def _layers(data: Path) -> list[Path]:
    return sorted((data / layout.LAYERS).glob("sha256-*"))


def _digest(layer: Path) -> str:
    return layer.name.replace("-", ":", 1)


def _blobs(data: Path) -> list[Path]:
    """Those of images, and drafts that a killed builder left."""
    blobs = data / layout.OCI / "blobs"
    return sorted(path for path in (*blobs.glob(".blob-*"), *(blobs / "sha256").iterdir()) if path.is_file())


def _linked(data: Path, manifests: Iterable[str], layers: Iterable[Path]) -> set[str]:
    """The names of all blobs that these manifests and layers need."""
    found = set(manifests)
    for manifest in manifests:
        with suppress(NotFound):
            document = image.document(data, manifest)
            found |= {part["digest"] for part in (document["config"], *document["layers"])}
    found |= {str(_read(path / "layer.json").get("blob", "")) for path in layers}
    return {digest.removeprefix("sha256:") for digest in found}


def _forget_notes(data: Path) -> None:
    """Of layers that are gone: what makes them anew writes them anew."""
    for note in (*(data / layout.CACHE / "deps").glob("*"), *(data / layout.CACHE / "base").glob("*.json")):
        digest = str(_read(note).get("digest", ""))
        if digest and not layout.layer(data, digest).is_dir():
            note.unlink(missing_ok=True)


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _seen(data: Path) -> Path:
    """The file in which layers' names have the moment at which they were first seen to be unneeded."""
    return data / layout.LAYERS / ".unneeded.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, document: object) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(document))
    draft.replace(path)
