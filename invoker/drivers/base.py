"""What the sandbox asks of an isolation driver. docker.py and bwrap.py answer; tests/invoker/test_drivers.py holds both
to the same behaviour.

A driver starts a command inside a base layer behind all walls and hands back a `Jail`: how to connect to the agent in
it, how to give it a function's folders, how to end it. What is said over the connection is sandbox.py's business.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from invoker.cgroups import Group
from jiffy.contract import layout, limits
from jiffy.contract.messages import Layer
from jiffy.contract.walls import UID_BLOCK, UID_BLOCKS, UID_FIRST

SOCKET_NAME = "agent.sock"
START_MAX_S = 15.0  # an engine that takes longer is as good as dead


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """What an invoker tells its driver."""

    data: Path
    invoker: str
    docker_runtime: str = ""  # an OCI runtime that the engine knows, such as "runsc"; "": its default
    scratch_bytes: int = limits.SCRATCH_MAX_BYTES
    pids_max: int = limits.PIDS_MAX
    off_limits: tuple[tuple[str, int], ...] = ()  # host and port of what no function may reach, network or not

    @property
    def run(self) -> Path:
        return self.data / layout.RUN / f"invoker-{self.invoker}"


@dataclass(frozen=True, slots=True)
class Program:
    """What a sandbox is started with whose command is no agent: it is held until `Jail.release`."""

    env: Mapping[str, str]
    trees: Mapping[str, Path]  # folder ("task", "deps") → the files to find there from the beginning
    places: Mapping[str, str]  # folder → where it lies inside
    cwd: str  # where it begins


PLACES: Mapping[str, str] = {"task": layout.TASK_DIR, "deps": layout.DEPS_DIR}  # of agents


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sandbox is to be, beside its base layer and command."""

    network: bool = False
    tenant: str = ""  # whose it will be, where that is known: it may then share with that tenant's others what
    # processes share by being forked from one (docs/security.md)
    awaited: bool = True  # a call waits for it; else its start makes way for everything that runs
    program: Program | None = None  # no agent


class Jail(Protocol):
    """One started sandbox, as its driver knows it."""

    tenant: str  # whose alone it is; "": anybody's

    group: Group | None  # None: control groups can't be written
    pid: int  # of the zygote on this host; 0: unknown

    def connect(self) -> socket.socket:
        """A new non-blocking connection to the agent. Raises OSError."""

    def seal(self) -> None:
        """The agent listens: from now on nobody in the sandbox can connect to it, or put another in its place."""

    async def fill(self, folder: str, tree: Path) -> None:
        """Make the files of `tree` appear, read-only, as `folder` ("task" or "deps"). Raises SandboxFailed."""

    def too_many_files(self) -> bool:
        """Are there more in its memory folders than SCRATCH_INODES_MAX? Never, where the driver can bound them."""

    def release(self) -> int:
        """Let a program begin. Returns a descriptor to read what it prints from, for the caller to close."""

    async def status(self) -> int:
        """With what a program ended that has ended: its exit status, or 128 and the number of a signal; -1: unknown."""

    async def stop(self) -> str:
        """Kill it and remove every trace; returns what its start-up wrote as errors. May be called twice."""


class Driver(Protocol):
    """Makes jails."""

    name: str  # "docker" | "bwrap"

    @property
    def network(self) -> bool:
        """Can it give a function a network, now that it is open?"""

    async def open(self) -> None:
        """Check that it works, and remove what an earlier invoker of the same id left. Raises Unavailable."""

    async def start(self, sandbox_id: str, base: Layer, command: tuple[str, ...], wish: Wish) -> Jail:
        """Start `command` in `base`: the agent, or a program. Raises SandboxFailed, or Unavailable when a network or a
        program can't be given.
        """

    async def close(self) -> None:
        """Stop whatever still runs, and leave nothing behind."""


class Uids:
    """One unprivileged user per sandbox, so that two sandboxes share not even a quota."""

    def __init__(self, invoker: str) -> None:
        self.first = UID_FIRST + zlib.crc32(invoker.encode()) % UID_BLOCKS * UID_BLOCK
        self._next = 0  # the first is the root of nurseries
        self._free: list[int] = []

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self.first + self._next % UID_BLOCK

    def give_back(self, uid: int) -> None:
        self._free.append(uid)


class Folder:
    """A sandbox's folder on the host: RUN/ID/{task,deps,sock}."""

    def __init__(self, run: Path, sandbox_id: str) -> None:
        self.path = run / sandbox_id
        self.sock = self.path / "sock"
        self.sock.mkdir(parents=True)
        for name in ("task", "deps"):
            (self.path / name).mkdir()
        for folder in (self.path, *self.path.iterdir()):
            folder.chmod(0o755)
        self._fd = os.open(self.sock, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # A socket's path has room for 107 bytes only.
        self._address = f"/proc/self/fd/{self._fd}/{SOCKET_NAME}"

    def listen(self) -> socket.socket:
        """A listener in it; for agents that inherit theirs."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self._address)
        listener.listen(1024)
        return listener

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(self._address)
        except OSError:
            sock.close()
            raise
        return sock

    def remove(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._address = -1, "/nonexistent"
        shutil.rmtree(self.path, ignore_errors=True)


def new_id() -> str:
    """A sandbox's id: unique on this host, short enough for every path and name that holds it."""
    return secrets.token_hex(6)
