"""A microcontainer with an agent: started as a stem, given a function, forked into instances.

It owns the control connection. Its states, freezing and its end are microcontainer.py's; the walls are drivers/', one
instance's life is instance.py's, the frames on the wire channel.py's, and when any of this should happen is the pool's
to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from pathlib import Path
from typing import Any

from jiffy.contract import layout, limits
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.messages import Layer, Revision

from .cgroups import Group
from .channel import Channel, Log, encode
from .drivers.base import START_MAX_S, Driver, Jail, Wish, new_id
from .instance import LATE_MAX, Exit, Instance, Reply
from .microcontainer import FOLDERS, MOVES, Loaded, Microcontainer, State
from .refusal import ending_in

__all__ = ["MOVES", "Exit", "Instance", "Loaded", "Reply", "Sandbox", "State"]

log = logging.getLogger(__name__)


class Sandbox(Microcontainer):
    """See the module."""

    forks = True

    def __init__(self, jail: Jail, sandbox_id: str, data: Path, runtime: str, *, network: bool) -> None:
        super().__init__(sandbox_id, data, runtime, network=network)
        self.instances: dict[int, Instance] = {}
        self.tenant = jail.tenant
        self._jail = jail
        self._takes_logs = False
        self._next = 1
        self._late = 0  # words on instances that we had given up, or never had
        self._awaited: asyncio.Future[tuple[dict[str, Any], bytes]] = self._loop.create_future()
        self._control: Channel | None = None

    @classmethod
    async def start(
        cls,
        driver: Driver,
        data: Path,
        runtime: str,
        base: Layer,
        wish: Wish = Wish(),  # noqa: B008 - frozen
    ) -> Sandbox:
        """A stem whose agent answers. Raises SandboxFailed, or Unavailable when a network can't be given."""
        sandbox_id = new_id()
        jail = await driver.start(sandbox_id, base, command(runtime), wish)
        self = cls(jail, sandbox_id, data, runtime, network=wish.network)
        try:
            async with asyncio.timeout(START_MAX_S):
                self._control = Channel(jail.connect(), self._frame, self._lost, payload_max=limits.PAYLOAD_MAX_BYTES)
                meta, _ = await self._awaited
            jail.seal()
            if meta.get("t") != "stem":
                raise SandboxFailed("the agent said something else than that it is there")
            self._takes_logs = meta.get("logs") is True  # agents of older base layers don't
        except (OSError, SandboxFailed) as exc:
            said = await self._end()
            reason = said or (exc.message if isinstance(exc, SandboxFailed) else str(exc) or "no answer")
            raise SandboxFailed(f"the agent did not start: {reason}") from exc
        self._move(State.STEM)
        return self

    # --- the control connection -------------------------------------------------------------------------------
    def connect(self) -> socket.socket:
        return self._jail.connect()

    def ask_to_kill(self, n: int) -> None:
        if self._control is not None:
            self._control.send({"t": "kill", "n": n})

    def _frame(self, meta: dict[str, Any], payload: bytes) -> None:
        kind = meta.get("t")
        if kind == "exited":
            instance, status = self.instances.get(_integer(meta, "n")), _integer(meta, "status")
            if instance is not None and 0 <= status <= 0xFFFF:
                instance.exited(status)
                self._look_for_files()
                return
            self._late += 1
            if self._late > self._next + LATE_MAX:  # more than one on each
                self._lost("garbage")
        elif kind in ("stem", "loaded", "failed") and not self._awaited.done():
            self._awaited.set_result((meta, payload))
        else:
            self._lost("garbage")

    def _look_for_files(self) -> None:
        """What instances leave is files, and a driver may be unable to bound how many: then the sandbox ends."""
        if self._jail.too_many_files():
            log.warning("sandbox %s holds more than %d files", self.id, limits.SCRATCH_INODES_MAX)
            self._close_soon()

    def _lost(self, _: str) -> None:
        """The zygote is gone, or no longer to be trusted: the whole sandbox ends."""
        if not self._awaited.done():
            self._awaited.set_exception(SandboxFailed("the sandbox ended"))
            self._awaited.exception()  # perhaps nobody waits
        if self.state not in (State.STARTING, State.CLOSED):
            self._close_soon()

    # --- becoming a function ----------------------------------------------------------------------------------
    async def specialise(self, revision: Revision) -> Loaded:
        """Give a stem its function and import it. The function's failure is `Loaded.error`; ours raises SandboxFailed.

        After a failure the sandbox is good for nothing but `close`.
        """
        self._move(State.LOADING)
        self.revision = revision
        group = self._jail.group
        try:
            if group is not None:
                group.restrict(revision.memory_mb)
            for layer in revision.layers:
                if layer.kind in FOLDERS:
                    await self._jail.fill(FOLDERS[layer.kind], layout.layer_tree(self._data, layer.digest))
            alarm = -1 if group is None else group.watch()
            printed = self._open_log(0)
        except (OSError, ValueError) as exc:
            raise SandboxFailed(f"{revision.function} could not be put into a sandbox: {exc}") from exc
        try:
            if group is not None and alarm >= 0:
                self._loop.add_reader(alarm, group.alarm)
            return await self._load(revision, printed)
        finally:
            if group is not None and alarm >= 0:
                self._loop.remove_reader(alarm)
                group.unwatch()
            printed.close()

    async def _load(self, revision: Revision, printed: Log) -> Loaded:
        if self._control is None or self._control.closed:
            raise SandboxFailed("the stem ended before it was used")
        group = self._jail.group
        self._awaited = self._loop.create_future()
        self._control.send(
            {
                "t": "load",
                "handler": revision.handler,
                "env": revision.env,
                "tenant": revision.tenant,
                "function": revision.function,
                "revision": revision.number,
                "memory_mb": revision.memory_mb,
                "stream": revision.stream,
                "alone": group is None,
                "pids_max": limits.PIDS_MAX,
            }
        )
        try:
            async with asyncio.timeout(limits.INIT_MAX_S):
                meta, payload = await self._awaited
        except TimeoutError:
            text = f"the module was still being imported after {limits.INIT_MAX_S:.2f} seconds"
            error = _error("Sandbox.Timedout", text)
            return Loaded(int(limits.INIT_MAX_S * 1e6), error, ending_in(error, printed.read()))
        except SandboxFailed:
            return self._import_killed(revision, printed)
        if meta["t"] != "loaded":
            return Loaded(0, payload, printed.read())
        if self.state is not State.LOADING:  # it said more than that in the same breath
            return self._import_killed(revision, printed)
        if group is not None:
            group.loaded()
        self._move(State.READY)
        return Loaded(max(0, _integer(meta, "import_us")), None, printed.read())

    def _import_killed(self, revision: Revision, printed: Log) -> Loaded:
        error = self._killed_by(revision)
        return Loaded(0, error, ending_in(error, printed.read()))

    def _killed_by(self, revision: Revision) -> bytes:
        group = self._jail.group
        if group is not None and group.oom_kills() > 0:
            text = f"importing the function used more than its memory_mb = {revision.memory_mb}"
            return _error("Runtime.OutOfMemory", f"{text}; raise memory_mb in jiffy.toml")
        return _error("Runtime.ExitError", "the process ended while the function was imported")

    def _open_log(self, n: int) -> Log:
        sock = self._jail.connect()
        try:
            sock.sendall(encode({"t": "log", "n": n}))  # it fits: the connection is new
        except OSError:
            sock.close()
            raise
        return Log(sock)

    def _log_of(self, n: int) -> tuple[Log, socket.socket | None]:
        """What an instance will print, and the end of it that travels with its hello."""
        if not self._takes_logs:
            return self._open_log(n), None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        return Log(ours), theirs

    # --- instances --------------------------------------------------------------------------------------------
    async def fork(self) -> Instance:
        """One more instance. Raises SandboxFailed."""
        if self.state is State.FROZEN:
            await self.thaw()
        if self.state is not State.READY:
            raise SandboxFailed(f"sandbox {self.id} is {self.state.value}: it can't be forked")
        n, self._next = self._next, self._next + 1
        group = self._jail.group
        with contextlib.ExitStack() as undo:
            try:
                cell = None if group is None else group.cell(n, len(self.instances) + 1)
                if cell is not None:
                    undo.callback(cell.remove)
                printed, log_end = self._log_of(n)
                undo.callback(printed.close)
                if log_end is not None:
                    undo.callback(log_end.close)
                sock = self._jail.connect()
                undo.callback(sock.close)
                instance = Instance(n, self, cell, printed, sock, log_end)
            except OSError as exc:
                raise SandboxFailed(f"an instance could not be made: {exc}") from exc
            undo.pop_all()
        self.instances[n] = instance
        await instance.ready()
        return instance

    # --- the end ----------------------------------------------------------------------------------------------
    @property
    def _group(self) -> Group | None:
        return self._jail.group

    def _abandon(self) -> None:
        for instance in list(self.instances.values()):
            with contextlib.suppress(OSError):  # of what is gone already
                instance.abandon()

    async def _end(self) -> str:
        self.state = State.CLOSED
        if self._control is not None:
            self._control.close()
        return await self._jail.stop()


def command(runtime: str) -> tuple[str, ...]:
    """What to start in a base layer of this runtime."""
    flags = ("-I", "-S", "-B", "-X", "utf8", "-W", "ignore::DeprecationWarning:__main__")  # the agent forks: it must
    return (f"/usr/local/bin/{runtime}", *flags, f"{layout.RUNTIME_DIR}/agent.py")


def _integer(meta: dict[str, Any], name: str) -> int:
    value = meta.get(name)
    return value if type(value) is int else -1


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message, "stackTrace": []}).encode()
