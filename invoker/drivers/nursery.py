"""Stems by fork: a process that has started once, per base layer and tenant, bears them in a tenth of the time.

This is the invoker's half, which asks for stems and sees to the user namespace that the nursery is the root of: a range
of users that own nothing on this host. Inside: builder/runtimes/python/jiffy_nursery.py. What stems of one nursery
share with each other (hash seed, addresses) they share with nobody else's: a nursery is one tenant's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from jiffy.contract import layout
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.walls import UID_BLOCK

from . import launch
from .base import START_MAX_S

log = logging.getLogger(__name__)

FILE = f"{layout.RUNTIME_DIR}/jiffy_nursery.py".lstrip("/")
FAILURES_MAX = 3  # in a row: a host that lets bubblewrap do more than its children, or has nothing to give just now
REST_S = 600.0  # stems are then started one by one, until one more is tried
ERRORS_SHOWN = 2000  # characters of what a failed start printed
NURSERIES_MAX = 8  # at a time, 7 MB each; the least recently used one goes
IDLE_S = 600.0  # one that is retired stays as long as what it bore: bursts that come again had better share one
CREDENTIALS = struct.Struct("=iII")

Key = tuple[Path, str]  # a base layer's tree, a tenant


class Nursery:
    """One. `uid_first` is the user on this host that is root in there, 0: we are not root and have no other."""

    def __init__(self, uid_first: int, walls: dict[str, Any]) -> None:
        self._uid_first = uid_first
        self._walls = walls
        self._control, self._end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(START_MAX_S)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, program: Path, root: Path, stage: Path, command: tuple[str, ...]) -> None:
        """Start it from the base layer `root`, where `stage` has the sandboxes' folders. Raises SandboxFailed."""
        info, info_end = os.pipe2(os.O_CLOEXEC)
        block, block_end = os.pipe2(os.O_CLOEXEC)
        errors = os.memfd_create("stderr", os.MFD_CLOEXEC)
        words = ["--clearenv", "--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1"]
        words += ["--cap-add", "ALL", "--ro-bind", str(root), "/", "--proc", "/proc"]
        words += ["--dev", "/dev", "--remount-ro", "/dev", "--bind", str(stage), layout.SOCKET_DIR]
        words += ["--setenv", "LANG", "C.UTF-8", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]
        words += ["--setenv", "JIFFY_NURSERY_FD", str(self._end.fileno()), "--info-fd", str(info_end)]
        words += ["--userns-block-fd", str(block)] if self._uid_first else ["--uid", "0", "--gid", "0"]
        inherited = [self._end.fileno(), info_end, block]
        try:
            self._process = launch.start(program, self._uid_first, words, command, inherited, errors)
            os.close(info_end)
            info_end = -1
            self._end.close()
            self._map_users(launch.child_pid(info))
            os.write(block_end, b"1")
            self._control.send(json.dumps(self._walls).encode())
            if self._control.recv(16) != b"ready":
                raise OSError("it ended")
        except (OSError, ValueError) as exc:
            self.end()
            said = os.pread(errors, ERRORS_SHOWN, 0).decode(errors="replace").strip()
            raise SandboxFailed(f"a nursery could not be started: {said or exc}") from exc
        finally:
            for fd in (errors, info, info_end, block, block_end):
                if fd >= 0:
                    os.close(fd)

    def _map_users(self, pid: int) -> None:
        if self._uid_first:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text(f"0 {self._uid_first} {UID_BLOCK}")

    def bear(self, sandbox_id: str, uid: int, fds: list[int], admit: Callable[[int], None]) -> int:
        """One stem, the user `uid` of this host; its pid. `admit` is told that before it goes on. Raises OSError.

        `fds`: its listener, a file for its errors, doors of control groups through which it moves itself.
        """
        midwife, cord = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with midwife:
            with cord:
                midwife.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                midwife.settimeout(START_MAX_S)
                birth = {"id": sandbox_id, "uid": uid - self._uid_first if uid else 0}
                socket.send_fds(self._control, [json.dumps(birth).encode()], [*fds[:2], cord.fileno(), *fds[2:]])
            said, ancillary, _, _ = midwife.recvmsg(16, socket.CMSG_SPACE(CREDENTIALS.size))
            pid = next((CREDENTIALS.unpack(value)[0] for _, _, value in ancillary), 0)
            if said != b"here" or pid <= 0:
                raise OSError("a stem could not be forked")
            admit(pid)
            midwife.send(b"go")
            if midwife.recv(16) != b"up":
                raise OSError("a stem's walls could not be made")
            return pid

    def retire(self) -> None:
        """Bear no more; it ends with its last child."""
        self._control.close()
        self._end.close()

    @property
    def over(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def end(self) -> None:
        """With all of its children, whatever they do."""
        self.retire()
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(START_MAX_S)


class Nurseries:
    """Those of one invoker. `found` makes one for a root file system and a command; `rest_s`: see REST_S."""

    def __init__(self, found: Callable[[Path, tuple[str, ...]], Awaitable[Nursery]], *, rest_s: float = REST_S) -> None:
        self._found = found
        self._rest_s = rest_s
        self._all: dict[Key, asyncio.Future[Nursery]] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._retired: list[Nursery] = []
        self._failures = 0
        self._not_before = 0.0  # on the loop's clock

    def can(self, tree: Path) -> bool:
        """Is there any for this base layer? Not while they rest because they failed, and not for older layers."""
        return asyncio.get_running_loop().time() >= self._not_before and (tree / FILE).exists()

    @contextlib.asynccontextmanager
    async def of(self, tree: Path, command: tuple[str, ...], tenant: str) -> AsyncIterator[Nursery]:
        """The tenant's for this base layer, made now if need be, to bear one stem. Raises SandboxFailed, and whatever
        fails meanwhile it hears of.
        """
        key = tree, tenant
        made = self._all.pop(key, None) or asyncio.ensure_future(self._found(tree, command))
        self._all[key] = made  # the most recently used is the last
        if key in self._timers:
            self._timers[key].cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(IDLE_S, self._retire, key)
        if len(self._all) > NURSERIES_MAX:
            self._retire(next(iter(self._all)))
        try:
            yield await asyncio.shield(made)
        except SandboxFailed as exc:
            if self._all.get(key) is made:  # not one that had to go meanwhile, or whose failure was counted
                self._failures += 1
                resting = self._failures >= FAILURES_MAX
                if resting:
                    self._not_before = asyncio.get_running_loop().time() + self._rest_s
                log.warning("%s%s", exc.message, f"; no nurseries for {self._rest_s:g} s" if resting else "")
                self._retire(key)
            raise
        self._failures = 0

    def _retire(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        made = self._all.pop(key, None)
        if made is not None:
            made.add_done_callback(self._retired_one)

    def _retired_one(self, made: asyncio.Future[Nursery]) -> None:
        self._retired = [one for one in self._retired if not one.over]
        if not made.cancelled() and made.exception() is None:
            made.result().retire()
            self._retired.append(made.result())

    async def close(self) -> None:
        """End all, and what they bore."""
        made = list(self._all.values())
        for key in list(self._all):
            self._retire(key)
        await asyncio.gather(*made, return_exceptions=True)
        await asyncio.sleep(0)  # until the last one's callback has run
        for nursery in self._retired:
            await asyncio.to_thread(nursery.end)
        self._retired.clear()
