"""Making a layer's files appear in a started sandbox's folder: the step that turns a stem into a function.

Where we may mount: each unpacked layer is staged once, as a read-only mount, and that mount is bound onto the folder;
through a shared mount above it the copy reaches the running sandbox and is read-only there, too. (Binding first and
remounting read-only later would reach it writable.) Elsewhere: hard links, or copies across file systems.

`private` keeps all mounts in a mount namespace of one thread, so that even kill -9 leaves none; an engine's daemon
could not see those, so docker's are real ones, removed by `open` if an earlier invoker could not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from jiffy.contract.errors import SandboxFailed, Unavailable

log = logging.getLogger(__name__)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 32, 4096, 16384
MS_PRIVATE, MS_SHARED = 1 << 18, 1 << 20
MNT_DETACH = 2
CLONE_FS, CLONE_NEWNS = 0x200, 0x20000
STAGED_MAX = 256  # layers kept staged; a sandbox keeps what it was given when the oldest goes
LOBBY = Path("/mnt")  # in the private namespace alone: where unprivileged users can reach what lies in our folders

P = ParamSpec("P")
R = TypeVar("R")
_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes blanks and backslashes
_libc = ctypes.CDLL(None, use_errno=True)


class Stage:
    """The staged layers of one invoker, under RUN/.staged.

    Two threads share its namespace: one mounts, the other (`start`) takes its time starting and stopping sandboxes, so
    that a cold call never waits behind a stem that is being refilled.
    """

    def __init__(self, data: Path, run: Path, *, private: bool, linked: bool = False) -> None:
        """`linked`: never mount, as for sandboxes whose kernel sees no mount that is made later."""
        self._data = data
        self._linked = linked
        self._run = run
        self._private = private
        self._mounter = ThreadPoolExecutor(1, thread_name_prefix="stage")
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="start")
        self._layers: dict[Path, tuple[Path, int]] = {}  # tree → its mount, and the inode that is mounted there
        self.root = run  # where the sandboxes' folders are to be named from
        self.mounts = False
        self._closed = False

    async def open(self, *extra: Path) -> None:
        """Empty RUN, and find out whether we may mount. `extra` folders: see `reach`. Raises Unavailable."""
        try:
            namespace = await self.run(self._open, extra)
        except OSError as exc:
            raise Unavailable(f"{self._run} can't be prepared: {exc.strerror}") from exc
        if namespace >= 0:
            await self.start(_join, namespace)

    def _open(self, extra: tuple[Path, ...]) -> int:
        """A descriptor of our own namespace; -1 when it is everybody's."""
        unmount_below(self._run)
        left = mounted_below(self._run)
        if left:
            raise Unavailable(f"{left[-1]} is still mounted and can't be unmounted: unmount it, then start again")
        shutil.rmtree(self._run, ignore_errors=True)
        (self._run / ".staged").mkdir(parents=True)
        self._run.chmod(0o711)  # others may pass through, not look around
        if self._linked or os.geteuid() != 0:
            return -1
        try:
            if self._private:
                self._enter(extra)
                self.mounts = True
                return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            mount(self._run, self._run, MS_BIND)
            mount(None, self._run, MS_PRIVATE)
            mount(None, self._run, MS_SHARED)
            self.mounts = True
        except OSError as exc:
            log.warning("can't mount here (%s): layers are linked instead", exc.strerror)
        return -1

    def _enter(self, extra: tuple[Path, ...]) -> None:
        """A mount namespace for this thread, with a lobby in it that any user may enter."""
        if _libc.unshare(CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        mount(None, Path("/"), MS_REC | MS_PRIVATE)
        sources = [os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in (self._run, self._data, *extra)]
        try:
            mount(None, LOBBY, MS_NOSUID | MS_NODEV, kind="tmpfs", options="mode=755,size=1m")
            for i, fd in enumerate(sources):
                (LOBBY / str(i)).mkdir()
                mount(Path(f"/proc/self/fd/{fd}"), LOBBY / str(i), MS_BIND)
        finally:
            for fd in sources:
                os.close(fd)
        mount(None, LOBBY / "0", MS_SHARED)
        self.root = LOBBY / "0"

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do `work`, which is quick, in the thread that mounts."""
        return await asyncio.get_running_loop().run_in_executor(self._mounter, lambda: work(*args, **kwargs))

    async def start(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do `work`, which may take its time, in the other thread: the one that a bubblewrap's life is tied to."""
        return await asyncio.get_running_loop().run_in_executor(self._starter, lambda: work(*args, **kwargs))

    def reach(self, i: int, folder: Path) -> Path:
        """How the `i`-th extra folder is named in the thread's namespace."""
        return LOBBY / str(i + 2) if self.root != self._run else folder

    def staged(self, tree: Path) -> Path:
        """The read-only mount of a layer's tree (in `run`); the tree itself where we may not mount."""
        if not self.mounts:
            return tree
        # the lobby may hide the folder's own name
        source = LOBBY / "1" / tree.relative_to(self._data) if self.root != self._run else tree
        inode = source.stat().st_ino
        place, mounted = self._layers.pop(tree, (None, 0))
        if place is not None and mounted != inode:  # the layer was removed, and has been made or pulled again
            unmount(place)
            place = None
        if place is None:
            while len(self._layers) >= STAGED_MAX:
                unmount(self._layers.pop(next(iter(self._layers)))[0])
            place = self.root / ".staged" / tree.parent.name
            place.mkdir(exist_ok=True)
            mount(source, place, MS_BIND)
            try:
                mount(None, place, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
            except OSError:
                unmount(place)
                raise
        self._layers[tree] = place, inode  # the most recently used is the last
        return place

    async def fill(self, sandbox_id: str, folder: str, tree: Path) -> None:
        """Make `tree` appear as RUN/SANDBOX/FOLDER. Raises SandboxFailed."""
        try:
            await self.run(self._fill, self.root / sandbox_id / folder, tree)
        except OSError as exc:
            raise SandboxFailed(f"layer {tree.parent.name} can't be given to a sandbox: {exc.strerror}") from exc

    def _fill(self, folder: Path, tree: Path) -> None:
        if self.mounts:
            mount(self.staged(tree), folder, MS_BIND)
        else:
            link_tree(tree, folder)

    def empty(self, sandbox_id: str) -> None:
        """Unmount what was filled."""
        if self.mounts:
            for name in ("task", "deps"):
                with contextlib.suppress(OSError):
                    unmount(self.root / sandbox_id / name)

    async def close(self) -> None:
        """Unmount everything and remove RUN. Twice is as good as once."""
        if not self._closed:
            self._closed = True
            await self.run(self._close)
            self._mounter.shutdown()
            self._starter.shutdown()

    def _close(self) -> None:
        for place, _ in self._layers.values():
            with contextlib.suppress(OSError):
                unmount(place)
        self._layers.clear()
        unmount_below(self.root)
        unmount_below(self._run)
        shutil.rmtree(self._run, ignore_errors=True)


def _join(namespace: int) -> None:
    """Enter a mount namespace with this thread alone."""
    try:
        if _libc.unshare(CLONE_FS) != 0 or _libc.setns(namespace, CLONE_NEWNS) != 0:
            raise Unavailable(f"can't share a mount namespace: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(namespace)


def link_tree(source: Path, target: Path) -> None:
    """The files of `source` as hard links in `target`, which exists; copies where links can't be made."""
    with os.scandir(source) as entries:
        for entry in entries:
            place = target / entry.name
            if entry.is_symlink():
                place.symlink_to(Path(entry.path).readlink())
            elif entry.is_dir():
                place.mkdir()
                link_tree(Path(entry.path), place)
            else:
                try:
                    os.link(entry.path, place)
                except OSError:
                    shutil.copy2(entry.path, place)


def mount(
    source: Path | None, target: Path, flags: int, *, kind: str | None = None, options: str | None = None
) -> None:
    """mount(2). Raises OSError."""
    result = _libc.mount(
        os.fsencode(source) if source else b"none",
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def unmount(target: Path) -> None:
    """umount2(2), lazily: a process that still has a file open keeps no one waiting. Raises OSError."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def mounted_below(folder: Path) -> list[Path]:
    """Mount points at and below `folder`, outermost first, as the calling thread sees them."""
    real = str(folder.resolve())
    found = []
    for line in Path("/proc/thread-self/mountinfo").read_text().splitlines():
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4])
        if point == real or point.startswith(real + "/"):
            found.append(Path(point))
    return found


def unmount_below(folder: Path) -> None:
    """Unmount all of them, innermost first; what can't be stays."""
    for point in reversed(mounted_below(folder)):
        with contextlib.suppress(OSError):
            unmount(point)
