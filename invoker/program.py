"""A microcontainer whose one process is a program that asks for its events: a client of runtime_api.py.

It has no agent that could be forked, so it is one instance: `Program` is what the pool knows as a sandbox, client.py's
`Client` what it knows as an instance. An agent of ours that speaks this API (EARLY) is
started as a stem and told its function later; any other program starts when its function is known. Durations are ours
here: from handing an event out to having its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from jiffy.contract import layout, limits
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.messages import Layer, Process, Revision
from jiffy.contract.spec import language

from .cgroups import Group
from .channel import Log
from .client import Client
from .drivers import base
from .drivers.base import START_MAX_S, Driver, Jail, new_id
from .http_server import HttpServer
from .instance import Exit
from .microcontainer import FOLDERS, Loaded, Microcontainer, State
from .refusal import ending_in, error_json
from .runtime_api import RuntimeApi

log = logging.getLogger(__name__)

PROCESSES = {  # language: what is started, unless the revision says it
    "nodejs": Process(("/usr/local/bin/node", f"{layout.RUNTIME_DIR}/agent.mjs"), {}, layout.TASK_DIR),
    "provided": Process((f"{layout.TASK_DIR}/bootstrap",), {}, layout.TASK_DIR),
    "image": Process((), {}, "/"),
}
EARLY = frozenset({"nodejs"})  # agents of ours
NOT_STARTED = 127  # what a shell says, and the gate of a container, when a program can't be executed
_SIGNALLED = 128


def runs(runtime: str) -> bool:
    """Is it a program that a function of this runtime is?"""
    return language(runtime) in PROCESSES


class Program(Microcontainer):
    """See the module."""

    forks = False

    def __init__(
        self, driver: Driver, sandbox_id: str, data: Path, runtime: str, base: Layer, *, network: bool
    ) -> None:
        super().__init__(sandbox_id, data, runtime, network=network)
        self._driver = driver
        self._base = base
        self._process = PROCESSES[language(runtime)]
        self._early = language(runtime) in EARLY
        self._jail: Jail | None = None
        self._api: RuntimeApi | HttpServer = RuntimeApi(self)
        self._client: Client | None = None
        self._printed: Log | None = None
        self._pidfd = self._alarm = -1
        self._awaited: asyncio.Future[Loaded] = self._loop.create_future()
        self._began_ns = 0
        self._handed = False  # the one instance

    @classmethod
    async def start(
        cls,
        driver: Driver,
        data: Path,
        runtime: str,
        layer: Layer,
        wish: base.Wish = base.Wish(),  # noqa: B008 - frozen
    ) -> Program:
        """A stem: an agent that waits for its function, or only the promise of a sandbox. Raises SandboxFailed."""
        self = cls(driver, new_id(), data, runtime, layer, network=wish.network)
        if self._early:
            try:
                await self._begin({}, {})
                async with asyncio.timeout(START_MAX_S):
                    loaded = await self._awaited
                if loaded.error is not None:
                    raise SandboxFailed("it ended")
            except (TimeoutError, SandboxFailed) as exc:
                said = self._printed.read().decode(errors="replace") if self._printed else ""
                await self._end()
                raise SandboxFailed(f"the agent did not start: {said.strip() or exc}") from exc
        self._move(State.STEM)
        return self

    async def _begin(self, env: Mapping[str, str], trees: Mapping[str, Path], memory_mb: int = 0) -> None:
        """Start the process, with the API at its side. Raises SandboxFailed."""
        ours = {"task": layout.TASK_DIR, "deps": layout.deps_dir(self.runtime)}
        places = {} if self.runtime == "image" else ours  # what others made has its own idea of folders
        program = base.Program({**env, **self._api.env}, trees, places, self._process.cwd)
        wish = base.Wish(network=self.network, program=program)
        jail = await self._driver.start(self.id, self._base, self._process.args, wish)
        self._jail = jail
        try:
            self._pidfd = os.pidfd_open(jail.pid)
            limit(jail.pid, memory_mb if jail.group is None else 0)
            if jail.group is not None and memory_mb:
                self._restrict(jail.group, memory_mb)
            await self._api.open(jail.pid)
            self._loop.add_reader(self._pidfd, self._ended)
            self._began_ns = time.monotonic_ns()
            printed = jail.release()
            self._printed = Log(io.FileIO(printed))
        except (OSError, ValueError) as exc:
            raise SandboxFailed(f"a program could not be started in a sandbox: {exc}") from exc

    def _restrict(self, group: Group, memory_mb: int) -> None:
        group.restrict(memory_mb)
        self._alarm = group.watch()
        if self._alarm >= 0:
            self._loop.add_reader(self._alarm, group.alarm)

    @property
    def _group(self) -> Group | None:
        return None if self._jail is None else self._jail.group

    # --- what the Runtime API tells -----------------------------------------------------------------------------
    def waits(self) -> None:
        if not self._awaited.done():
            self._awaited.set_result(Loaded(0, None, b""))

    def misused(self) -> None:
        log.warning("sandbox %s floods its Runtime API, and is ended", self.id)
        if self._client is not None:
            self._client.misused()
        else:
            self.kill()

    def asked(self) -> None:
        self._loaded(None)

    def failed(self, error: bytes) -> None:
        self._loaded(error)

    def _loaded(self, error: bytes | None, *, ours: bool = False) -> None:
        if not self._awaited.done():
            printed = ending_in(error, self._read()) if ours and error else self._read()
            self._awaited.set_result(Loaded((time.monotonic_ns() - self._began_ns) // 1000, error, printed))

    def taken(self) -> None:
        if self._client is not None:
            self._client.taken()

    def answered(self, ok: bool, payload: bytes, *, last: bool) -> None:
        if self._client is not None:
            self._client.answered(ok, payload, last=last)
        if self._jail is not None and self.state is State.READY and self._jail.too_many_files():
            log.warning("sandbox %s holds more than %d files", self.id, limits.SCRATCH_INODES_MAX)
            self._close_soon()

    # --- becoming a function ----------------------------------------------------------------------------------
    async def specialise(self, revision: Revision) -> Loaded:
        """As Sandbox.specialise: it has its function when it asks for its first event."""
        self._move(State.LOADING)
        self.revision = revision
        env = environment(revision)
        trees = {
            FOLDERS[layer.kind]: layout.layer_tree(self._data, layer.digest)
            for layer in revision.layers
            if layer.kind in FOLDERS
        }
        self._awaited = self._loop.create_future()
        if revision.process is not None:
            self._process = revision.process
            if self._process.http_port:
                self._api = HttpServer(self, self._process.http_port)
        if self._early:
            await self._tell(revision, env, trees)
        else:
            await self._begin(env, trees, revision.memory_mb)
        try:
            async with asyncio.timeout(limits.INIT_MAX_S):
                loaded = await self._awaited
        except TimeoutError:
            port = self._process.http_port
            missing = f"nobody listened on port {port}" if port else "the function had not asked for its first event"
            text = f"{missing} after {limits.INIT_MAX_S:.2f} seconds"
            error = error_json("Sandbox.Timedout", text)
            return Loaded(int(limits.INIT_MAX_S * 1e6), error, ending_in(error, self._read()))
        if loaded.error is None:
            if self.state is not State.LOADING:
                error = error_json("Runtime.ExitError", "the process ended while it started")
                return loaded._replace(error=error, log=ending_in(error, loaded.log))
            self._move(State.READY)
            if self._jail is not None:
                self._jail.seal()
        return loaded

    async def _tell(self, revision: Revision, env: Mapping[str, str], trees: Mapping[str, Path]) -> None:
        """An agent that waits gets its function."""
        jail = self._jail
        if jail is None or self.state is not State.LOADING:
            raise SandboxFailed("the stem ended before it was used")
        try:
            if jail.group is None:
                limit(jail.pid, revision.memory_mb)
            else:
                self._restrict(jail.group, revision.memory_mb)
            for folder, tree in trees.items():
                await jail.fill(folder, tree)
        except (OSError, ValueError) as exc:
            raise SandboxFailed(f"{revision.function} could not be put into a sandbox: {exc}") from exc
        self._began_ns = time.monotonic_ns()
        assert isinstance(self._api, RuntimeApi), "agents of ours speak it"
        self._api.load(json.dumps({"handler": revision.handler, "env": dict(env)}).encode())

    async def fork(self) -> Client:
        """Its only instance. Raises SandboxFailed when it has been asked for before."""
        if self.state is State.FROZEN:
            await self.thaw()
        if self.state is not State.READY or self._handed or self._printed is None or self._jail is None:
            raise SandboxFailed(f"sandbox {self.id} has no further instance")
        self._handed = True
        group = self._jail.group
        self._client = Client(self, self._api, None if group is None else group.whole(), self._printed, self._jail.pid)
        return self._client

    # --- the end ----------------------------------------------------------------------------------------------
    def kill(self) -> None:
        """Now and hard."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _ended(self) -> None:
        """The process is gone, whatever the reason."""
        self._loop.remove_reader(self._pidfd)
        starved = self._jail is not None and self._jail.group is not None and self._jail.group.oom_kills() > 0
        self._loop.create_task(self._bury(starved)).add_done_callback(lambda task: task.exception())

    async def _bury(self, starved: bool) -> None:
        assert self._jail is not None
        try:
            status = await self._jail.status()
            killed = status - _SIGNALLED if status > _SIGNALLED else 0
            if starved and killed == signal.SIGKILL:
                end = Exit("out_of_memory", killed, 0)
            elif killed:
                end = Exit("signal", killed, 0)
            else:
                end = Exit("exit", status, 0) if status >= 0 else Exit("closed", 0, 0)
            if self._client is not None:
                self._client.exited(end)
            self._loaded(self._why(end), ours=True)
        finally:
            if self.state not in (State.STARTING, State.CLOSED):
                self._close_soon()

    def _why(self, end: Exit) -> bytes:
        """Error JSON for one that ended before it asked for an event."""
        if end.reason == "out_of_memory":
            most = self.revision.memory_mb if self.revision else 0
            text = f"starting the function used more than its memory_mb = {most}; raise memory_mb in jiffy.toml"
            return error_json("Runtime.OutOfMemory", text)
        if end == Exit("exit", NOT_STARTED, 0):
            return error_json("Runtime.InvalidEntrypoint", f"{self._process.args[0]} could not be executed")
        how = f"signal {end.code}" if end.reason == "signal" else f"exit status {end.code}"
        return error_json("Runtime.ExitError", f"Runtime exited before it was ready for its first event: {how}")

    def _read(self) -> bytes:
        return b"" if self._printed is None else self._printed.read()

    def _abandon(self) -> None:
        if self._client is not None:
            self._client.exited(Exit("closed", 0, 0))

    async def _end(self) -> str:
        self.state = State.CLOSED
        self._api.close()
        if self._alarm >= 0:
            self._loop.remove_reader(self._alarm)
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            self.kill()
            os.close(self._pidfd)
            self._pidfd = -1
        said = "" if self._jail is None else await self._jail.stop()
        if self._printed is not None:
            self._printed.close()
        if not self._awaited.done():
            self._awaited.set_exception(SandboxFailed("the sandbox ended"))
            self._awaited.exception()  # perhaps nobody waits
        return said


def environment(revision: Revision) -> dict[str, str]:
    """What a function of this revision finds in its environment, the API's address aside."""
    if revision.process is not None:
        theirs = {"LANG": "C.UTF-8", **revision.process.env, "HOME": layout.SCRATCH_DIR}
        return theirs | dict(revision.env) | _fixed(revision)
    plain = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/opt/python/bin",
        "HOME": layout.SCRATCH_DIR,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "LD_LIBRARY_PATH": f"{layout.TASK_DIR}/lib:{layout.TASK_DIR}",
    }
    return plain | dict(revision.env) | _fixed(revision)


def _fixed(revision: Revision) -> dict[str, str]:
    number = str(revision.number)
    return {
        "_HANDLER": revision.handler.replace(":", "."),
        "AWS_LAMBDA_FUNCTION_NAME": revision.function,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(revision.memory_mb),
        "AWS_LAMBDA_FUNCTION_VERSION": number,
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/jiffy/{revision.function}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"[{number}]1",
        "LAMBDA_TASK_ROOT": layout.TASK_DIR,
        "LAMBDA_RUNTIME_DIR": layout.RUNTIME_DIR,
        "JIFFY_FUNCTION": revision.function,
        "JIFFY_REVISION": number,
    }


def limit(pid: int, memory_mb: int) -> None:
    """What an agent of ours would limit by itself; `memory_mb` where no control group does it."""
    with contextlib.suppress(PermissionError):  # root without that right; docker has set them already
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limits.OPEN_FILES_MAX, limits.OPEN_FILES_MAX))
    if memory_mb:
        resource.prlimit(pid, resource.RLIMIT_DATA, (memory_mb * limits.MIB, memory_mb * limits.MIB))
