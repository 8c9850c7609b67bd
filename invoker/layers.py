"""The layers of this host: those that lie in its data folder, and those that it pulls when a call first needs them.

A layer is pulled once however many calls wait for it. It becomes visible by one rename, after its bytes were found to
be those that its digest names; until then it is a file of a stranger, bounded in size. Even then nothing is written
outside its folder. Where it comes from: registry.py. What is done with it in a sandbox: staging.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from jiffy.contract import layout, limits
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Layer

log = logging.getLogger(__name__)

AT_ONCE = 4  # pulls: they are bound by the network and one processor
PAUSES_S = (0.2, 1.0, 3.0)  # before a registry that does not answer is asked again; then those who wait are told
_CHUNK = 1024 * 1024
_ENTRY_MAX_BYTES = 5 * 512  # a header, padding, and an extended header for a long name
_PREFIXES = {"code": layout.TASK_DIR, "deps": layout.DEPS_DIR}  # what a layer's tar has before its tree's own paths


class Shelf(Protocol):
    """Where layers come from: registry.Registry."""

    id: str

    def blob(self, digest: str) -> AbstractContextManager[Iterator[bytes]]: ...


class Layers:
    """See the module. `invoker` is this process's name: what it left half made, its next self removes."""

    def __init__(self, data: Path, invoker: str, shelf: Shelf | None) -> None:
        self._data = data
        self._shelf = shelf
        self._mark = f".pull-{invoker}-"
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._closed = threading.Event()
        for left in (data / layout.LAYERS).glob(f"{self._mark}*"):
            shutil.rmtree(left, ignore_errors=True)

    @property
    def registry(self) -> str:
        """The id of the registry that layers are pulled from; "": none are."""
        return self._shelf.id if self._shelf else ""

    async def ready(self, layers: Iterable[Layer]) -> None:
        """Return when these layers lie in the data folder. Raises Unavailable when one can't be pulled.

        Without a registry nothing is looked for: what is missing is found out by whoever uses it.
        """
        if self._shelf is None:
            return
        lacking = [one for one in layers if not layout.layer_tree(self._data, one.digest).is_dir()]
        if lacking:
            pulls = [self._pull(self._shelf, one) for one in lacking]
            await asyncio.wait(pulls)  # whoever stops waiting stops no pull
            for pull in pulls:
                if pull.cancelled():
                    raise Unavailable("the invoker is stopping")
                pull.result()

    def _pull(self, shelf: Shelf, layer: Layer) -> asyncio.Task[None]:
        task = self._pulls.get(layer.digest)
        if task is None:
            task = self._pulls[layer.digest] = asyncio.create_task(self._patiently(shelf, layer))
            task.add_done_callback(lambda done: self._pulled(layer.digest, done))
        return task

    def _pulled(self, digest: str, task: asyncio.Task[None]) -> None:
        del self._pulls[digest]
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.warning("layer %s was not pulled: %s", digest, failure)

    async def _patiently(self, shelf: Shelf, layer: Layer) -> None:
        async with self._places:
            for pause_s in PAUSES_S:
                try:
                    return await asyncio.to_thread(self._fetch, shelf, layer)
                except Unavailable as exc:
                    if exc.retry_after_s is None or self._closed.is_set():
                        raise
                    log.warning("%s; trying again", exc.message)
                await asyncio.sleep(pause_s)
            return await asyncio.to_thread(self._fetch, shelf, layer)

    def close(self) -> None:
        """Break off what is being pulled, and tell those who wait for it."""
        self._closed.set()
        for task in self._pulls.values():
            task.cancel()

    # --- one layer, in a thread -----------------------------------------------------------------------------------
    def _fetch(self, shelf: Shelf, layer: Layer) -> None:
        root = self._data / layout.LAYERS
        try:
            folder = Path(tempfile.mkdtemp(prefix=self._mark, dir=root))
            try:
                with tempfile.TemporaryFile(dir=folder) as tar, shelf.blob(layer.digest) as pieces:
                    self._inflate(pieces, layer, tar)
                    tar.seek(0)
                    unpack(tar, folder / "tree", _PREFIXES.get(layer.kind, ""))
                folder.chmod(0o755)
                self._settle(folder, layout.layer(self._data, layer.digest))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as exc:
            raise Unavailable(f"layer {layer.digest} can't be kept in {root}: {exc.strerror or exc}") from exc
        log.info("pulled %s layer %s, %d bytes", layer.kind, layer.digest, layer.size_bytes)

    def _inflate(self, pieces: Iterator[bytes], layer: Layer, out: IO[bytes]) -> None:
        """Into a file, until it is larger than the layer can be; it must be the layer that was asked for."""
        most = layer.size_bytes + limits.LAYER_FILES_MAX * _ENTRY_MAX_BYTES
        stream, hashed, size = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), hashlib.sha256(), 0
        wrong = Unavailable(f"what the registry has as layer {layer.digest} is another one, or damaged: push it again")
        try:
            for piece in pieces:
                data = piece
                while data and not stream.eof:
                    if self._closed.is_set():
                        raise Unavailable("the invoker is stopping")
                    inflated = stream.decompress(data, _CHUNK)
                    data = stream.unconsumed_tail
                    size += len(inflated)
                    if size > most:
                        raise wrong
                    hashed.update(inflated)
                    out.write(inflated)
                if stream.eof:
                    break
        except zlib.error as exc:
            raise wrong from exc
        if f"sha256:{hashed.hexdigest()}" != layer.digest:
            raise wrong

    @staticmethod
    def _settle(made: Path, target: Path) -> None:
        try:
            made.rename(target)
        except OSError:
            if not (target / "tree").is_dir():  # else another process was faster
                raise


def unpack(tar: IO[bytes], tree: Path, prefix: str) -> None:
    """The layer `tar`, whose paths begin with `prefix`, as the new folder `tree`. Raises Unavailable.

    Files, folders and links are all there is in a layer; links are made last, so that nothing is written through one.
    """
    tree.mkdir()
    below = [part for part in prefix.split("/") if part]
    links: list[tuple[Path, str]] = []
    folders = [(tree, 0o755)]
    try:
        with tarfile.open(fileobj=tar, mode="r:") as archive:
            for count, info in enumerate(archive):
                path = _inside(info.name, below)
                if path is None or count > limits.LAYER_FILES_MAX:
                    raise Unavailable(f"a layer holds {info.name!r:.200}, which has no place in it")
                if info.isdir():
                    (tree / path).mkdir(parents=True, exist_ok=True)
                    folders.append((tree / path, info.mode & 0o1777))
                elif info.issym():
                    links.append((tree / path, info.linkname))
                elif info.isreg():
                    _write(archive, info, tree / path)
                else:
                    raise Unavailable(f"a layer holds {info.name!r:.200}, which is no file, folder or link")
    except (tarfile.TarError, ValueError, OverflowError) as exc:
        raise Unavailable(f"a layer is no readable archive: {exc}") from exc
    for place, _ in links:  # all folders before the first link, or one could be made through another
        place.parent.mkdir(parents=True, exist_ok=True)
    for place, target in links:
        place.symlink_to(target)
        os.utime(place, (0, 0), follow_symlinks=False)
    for folder, mode in reversed(folders):
        folder.chmod(mode)
        os.utime(folder, (0, 0))


def _inside(name: str, below: list[str]) -> str | None:
    """The path in the tree, "" for its root; None when there is none."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/") or parts[: len(below)] != below[: len(parts)]:
        return None
    return "/".join(parts[len(below) :])


def _write(archive: tarfile.TarFile, info: tarfile.TarInfo, place: Path) -> None:
    source = archive.extractfile(info)
    assert source is not None
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
    place.chmod(0o755 if info.mode & 0o111 else 0o644)
    os.utime(place, (0, 0))
