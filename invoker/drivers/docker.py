"""Isolation by Docker Engine, with whatever OCI runtime it has. The one place that imports docker.

The base layer is imported once as an image, from local files. A sandbox is a container of it: no network (or a bridge
of this invoker's, behind a firewall: bridge.py), read-only root, no capabilities, no new privileges, the
engine's seccomp profile, pids and scratch limits, a user of its own; its empty folders are bound `ro,rslave`, so that
layers mounted on them later appear inside. Instances get child groups under the container's cgroup. The engine may
hang: every request has a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import docker
import requests
from docker.types import LogConfig, Mount, Ulimit

from invoker.cgroups import Cgroups, Group
from invoker.staging import Stage
from jiffy.contract import layout, limits
from jiffy.contract.errors import PlatformError, SandboxFailed, Unavailable
from jiffy.contract.messages import Layer

from . import gate
from .base import PLACES, SOCKET_NAME, START_MAX_S, DriverConfig, Folder, Jail, Uids, Wish
from .bridge import Bridge

log = logging.getLogger(__name__)

LABEL = "jiffy.invoker"
REPOSITORY = "jiffy-base"
PING_MAX_S = 5  # an engine that is there answers in milliseconds
REQUEST_MAX_S = 30
FOREIGN_KERNELS = (
    "runsc",
    "kata",
)  # none of their processes is this host's, for a group to hold; no later mount arrives
POLL_S = 0.002  # until the agent has bound its socket; it takes about 20 ms
_ENGINE_ERRORS = (docker.errors.DockerException, requests.exceptions.RequestException, OSError)

P = ParamSpec("P")
R = TypeVar("R")


class DockerJail:
    """See base.Jail."""

    def __init__(self, driver: Docker, sandbox_id: str, uid: int, folder: Folder) -> None:
        self._driver, self._id, self._uid, self._folder = driver, sandbox_id, uid, folder
        self._container = ""
        self._stopped: asyncio.Future[str] | None = None
        self.tenant = ""  # one that an engine started may be anybody's
        self.group: Group | None = None
        self.pid = 0
        self._pidfd = -1
        self._gate = -1  # held open for a program

    def connect(self) -> socket.socket:
        return self._folder.connect()

    def seal(self) -> None:
        with contextlib.suppress(OSError):  # not root: the folder is ours already
            os.chown(self._folder.sock, os.geteuid(), os.getegid())
        self._folder.sock.chmod(0o700)  # nor connect: an instance that could would fork others, in no group

    async def fill(self, folder: str, tree: Path) -> None:
        await self._driver.stage.fill(self._id, folder, tree)

    def too_many_files(self) -> bool:
        return False  # the kernel refuses them

    async def run(self, image: str, command: tuple[str, ...], wish: Wish) -> None:
        """Create and start the container, and wait until its agent listens. Raises SandboxFailed."""
        bridge = await self._driver.bridge() if wish.network else ""
        program = wish.program
        places = PLACES if program is None else program.places
        options = self._driver.walls(self._uid, self._folder.path, bridge, places)
        if program is not None:
            gate.prepare(self._folder.sock)
            for name, tree in program.trees.items():
                await self.fill(name, tree)
            command = (f"{layout.SOCKET_DIR}/{gate.NAME}", *command)
            env = options["environment"] | dict(program.env)
            options |= {"auto_remove": False, "environment": env, "working_dir": program.cwd}
        name = f"jiffy-{self._driver.config.invoker}-{self._id}"
        container = await self._driver.create(image, list(command), name=name, **options)
        self._container = container.id
        await self._driver.ask(container.start)
        await self._driver.ask(container.reload)
        self.pid = int(container.attrs["State"]["Pid"])
        with contextlib.suppress(OSError):  # it ended already
            self._pidfd = os.pidfd_open(self.pid)
        if not self._driver.foreign:
            self.group = self._driver.cgroups.adopt(self.pid)
        if self.group is not None:
            try:
                self.group.admit(self.pid, self._driver.config.pids_max)
                if not wish.awaited:
                    self.group.make_way()
            except OSError:
                self.group = None
        if program is None:
            await self._listening()

    async def _listening(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_MAX_S
        while not (self._folder.sock / SOCKET_NAME).exists():
            if asyncio.get_running_loop().time() > deadline:
                raise SandboxFailed("the agent in a container did not listen in time; does the engine see our files?")
            if self.pid and not os.path.exists(f"/proc/{self.pid}"):  # noqa: ASYNC240, PTH110 - /proc never blocks
                raise SandboxFailed("a container ended before its agent listened")
            await asyncio.sleep(POLL_S)

    def release(self) -> int:
        self._gate, printed = gate.pass_through(self._folder.sock)
        return printed

    async def status(self) -> int:
        try:
            ended = await asyncio.to_thread(self._driver.client.api.wait, self._container, timeout=START_MAX_S)
            return int(ended["StatusCode"])
        except _ENGINE_ERRORS:
            return -1

    async def stop(self) -> str:
        if self._stopped is None:
            self._stopped = asyncio.ensure_future(self._stop())
            self._driver.jails.discard(self)
        return await asyncio.shield(self._stopped)

    async def _stop(self) -> str:
        if self.group is not None:
            self.group.thaw()  # what is frozen can't die
        if self._pidfd >= 0:  # by ourselves first: an engine that hangs removes it when it is back
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
        if self._container:
            with contextlib.suppress(PlatformError):
                await asyncio.to_thread(self._driver.remove, self._container)
        if self.group is not None:
            await asyncio.to_thread(self.group.remove)
        await self._driver.stage.run(self._driver.stage.empty, self._id)
        self._folder.remove()
        self._driver.uids.give_back(self._uid)
        return ""


class Docker:
    """See base.Driver."""

    name = "docker"

    def __init__(self, config: DriverConfig) -> None:
        self.config = config
        self.foreign = config.docker_runtime.startswith(FOREIGN_KERNELS)
        self.stage = Stage(config.data, config.run, private=False, linked=self.foreign)
        self.cgroups = Cgroups(config.invoker)
        self.uids = Uids(config.invoker)
        self.jails: set[DockerJail] = set()
        self._images: dict[str, asyncio.Future[str]] = {}
        self._net = Bridge((LABEL, config.invoker), config.off_limits)
        self._bridge: asyncio.Future[str] | None = None
        self._no_network = "not opened yet"
        self.client: Any = None

    @property
    def network(self) -> bool:
        return not self._no_network

    async def ask(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """One request to the engine, in a thread. Raises SandboxFailed with a clear line."""
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except _ENGINE_ERRORS as exc:
            raise SandboxFailed(f"Docker refused: {_reason(exc)}") from exc

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._connect)
        except _ENGINE_ERRORS as exc:
            raise Unavailable(f"no Docker engine answers: {_reason(exc)}") from exc
        try:
            ours = {"label": f"{LABEL}={self.config.invoker}"}
            for left in await self.ask(self.client.containers.list, all=True, sparse=True, filters=ours):
                await asyncio.to_thread(self.remove, left.id)
            self._no_network = await self.ask(self._net.open, self.client)
        except PlatformError as exc:
            raise Unavailable(exc.message) from exc
        if self._no_network:
            log.warning("functions can't have a network here: %s", self._no_network)
        await self.stage.open()

    def _connect(self) -> None:
        with contextlib.closing(docker.from_env(timeout=PING_MAX_S)) as client:
            kind = client.version().get("Os", "linux")
        if kind != "linux":
            raise docker.errors.DockerException(f"it runs {kind} containers")
        self.client = docker.from_env(timeout=REQUEST_MAX_S)

    def remove(self, container: str) -> None:
        """Kill and remove a container; it may be gone, or going, already."""
        try:
            self.client.api.remove_container(container, force=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as exc:
            if exc.status_code != 409:  # its removal is under way
                raise SandboxFailed(f"Docker could not remove a container: {_reason(exc)}") from exc
            with contextlib.suppress(*_ENGINE_ERRORS):
                self.client.api.wait(container, timeout=START_MAX_S, condition="removed")
        except _ENGINE_ERRORS as exc:
            raise SandboxFailed(f"Docker could not remove a container: {_reason(exc)}") from exc

    async def start(self, sandbox_id: str, base: Layer, command: tuple[str, ...], wish: Wish) -> Jail:
        if wish.program is not None and self.foreign:
            raise Unavailable(f"{self.config.docker_runtime} has a network of its own: no program can be served there")
        image = await self._image(base)
        uid = self.uids.take()
        folder = Folder(self.config.run, sandbox_id)
        jail = DockerJail(self, sandbox_id, uid, folder)
        self.jails.add(jail)
        try:
            if wish.program is not None:
                pass  # nothing is bound in there
            elif os.geteuid() == 0:
                os.chown(folder.sock, uid, uid)
            else:
                folder.sock.chmod(0o777)  # its agent runs as another user; `seal` takes this back
            await jail.run(image, command, wish)
        except (OSError, PlatformError) as exc:
            await jail.stop()
            raise exc if isinstance(exc, PlatformError) else SandboxFailed(f"no container: {exc}") from exc
        return jail

    async def _image(self, base: Layer) -> str:
        """The image of a base layer, imported by whoever needs it first."""
        made = self._images.get(base.digest)
        if made is None or (made.done() and (made.cancelled() or made.exception())):
            made = self._images[base.digest] = asyncio.ensure_future(self.ask(self._import, base))
        return await asyncio.shield(made)

    def _import(self, base: Layer) -> str:
        tag = base.digest.partition(":")[2]
        name = f"{REPOSITORY}:{tag}"
        try:
            self.client.api.inspect_image(name)
        except docker.errors.ImageNotFound:
            tree = layout.layer_tree(self.config.data, base.digest)
            if not tree.is_dir():
                raise SandboxFailed(f"base layer {base.digest} is not in {self.config.data}") from None
            with tempfile.NamedTemporaryFile(dir=self.config.run, suffix=".tar") as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    tar.add(tree, ".", filter=_as_root)
                file.flush()
                self.client.api.import_image_from_file(file.name, repository=REPOSITORY, tag=tag)
        return name

    async def create(self, image: str, command: list[str], **options: Any) -> Any:
        """A container. An image that is gone (an engine with a new data folder, a prune) is imported anew next time."""
        try:
            return await self.ask(self.client.containers.create, image, command, **options)
        except SandboxFailed as exc:
            if isinstance(exc.__cause__, docker.errors.ImageNotFound):
                self._images.clear()
            raise

    async def bridge(self) -> str:
        """The network of functions that want one, made for the first of them, behind a firewall that stands now. Raises
        Unavailable where none can be, SandboxFailed when it fails.
        """
        if self._no_network:
            raise Unavailable(f"the function wants a network, and this host can't wall one off: {self._no_network}")
        if self._bridge is None or (self._bridge.done() and (self._bridge.cancelled() or self._bridge.exception())):
            self._bridge = asyncio.ensure_future(self.ask(self._net.make, self.client))
        name = await asyncio.shield(self._bridge)
        await self.ask(self._net.guard)
        return name

    def walls(self, uid: int, folder: Path, bridge: str, places: Mapping[str, str]) -> dict[str, Any]:
        """The options of a container; `bridge` "" is no network, `places` is as in base.Program."""
        options: dict[str, Any] = {
            "auto_remove": True,
            "cap_drop": ["ALL"],
            "environment": {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"},
            "hostname": "function",
            "ipc_mode": "private",
            "labels": {LABEL: self.config.invoker},
            "log_config": LogConfig(type=LogConfig.types.NONE),
            "mounts": [
                *(
                    Mount(place, str(folder / name), "bind", read_only=True, propagation=self._propagation())
                    for name, place in places.items()
                ),
                Mount(layout.SOCKET_DIR, str(folder / "sock"), "bind"),
            ],
            "network_mode": bridge or "none",
            "pids_limit": self.config.pids_max,
            "read_only": True,
            "security_opt": ["no-new-privileges:true"],
            "shm_size": limits.SHM_MAX_BYTES,
            "tmpfs": {
                layout.SCRATCH_DIR: f"rw,exec,nosuid,nodev,mode=1777,"
                f"size={self.config.scratch_bytes},nr_inodes={limits.SCRATCH_INODES_MAX}"
            },
            "ulimits": [
                Ulimit(name="nofile", soft=limits.OPEN_FILES_MAX, hard=limits.OPEN_FILES_MAX),
                Ulimit(name="core", soft=0, hard=0),
            ],
            "user": f"{uid}:{uid}",
        }
        if self.config.docker_runtime:
            options["runtime"] = self.config.docker_runtime
        return options

    def _propagation(self) -> str:
        return "rslave" if self.stage.mounts else "rprivate"

    async def close(self) -> None:
        await asyncio.gather(*(jail.stop() for jail in list(self.jails)))
        if self._bridge is not None:
            with contextlib.suppress(PlatformError):  # the next invoker of this name removes it
                await self.ask(self._net.remove, self.client)
        await self.stage.close()
        self.client.close()


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _reason(exc: BaseException) -> str:
    """One line of what the engine said."""
    text = str(getattr(exc, "explanation", None) or exc)
    return text.strip().splitlines()[0] if text.strip() else type(exc).__name__
