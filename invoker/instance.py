"""One instance: a forked process that serves one call at a time, from ready to gone.

A call is one frame out and one in, with a future and no task. An instance ends in exactly one way, found out from the
zygote's wait status, its control group's counters and what we did to it ourselves; `_finish` is where that is decided.
Reply and Exit keep apart "the function answered" and "the process ended instead". Metering and outcomes: execute.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jiffy.contract import limits
from jiffy.contract.errors import SandboxFailed

from .cgroups import Cell
from .channel import Channel, Log, encode
from .witness import Witness

FORK_MAX_S = 5.0  # a fork takes a millisecond; beyond this something is badly wrong
STATUS_MAX_S = 0.5  # between the end of a connection and the zygote's word on how the process ended
CLOSE_MAX_S = 1.0  # what an idle instance may take to leave by itself
PAYLOAD_SLACK_BYTES = limits.MIB  # the agent bounds results itself, and says so in an error of its own
LATE_MAX = 8  # frames for a call that is over, before they are garbage; an agent of ours sends none
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Reply(NamedTuple):
    """The function answered."""

    ok: bool
    payload: bytes  # the result, or the error JSON
    duration_us: int  # as the agent measured it
    last: bool = False  # and its process ends


class Exit(NamedTuple):
    """The instance ended instead of answering."""

    reason: str  # "timeout" | "out_of_memory" | "signal" | "exit" | "closed"
    code: int  # signal number or exit status
    duration_us: int  # from the call to the end, as we measured it


class Pieces(Protocol):
    """Who takes an answer that comes piece by piece: streaming.py."""

    def take(self, head: bool, data: bytes) -> bool: ...


class Owner(Protocol):
    """What an instance asks of its sandbox."""

    instances: dict[int, Instance]

    def connect(self) -> socket.socket: ...
    def ask_to_kill(self, n: int) -> None: ...
    async def thaw(self) -> None: ...


class Instance:
    """See the module. `on_exit` is called once, whatever the reason, after the call's future (if any) is resolved."""

    def __init__(
        self,
        n: int,
        sandbox: Owner,
        cell: Cell | None,
        log: Log,
        sock: socket.socket,
        log_end: socket.socket | None = None,
    ) -> None:
        """`log_end`: where it is to print; it is closed here. None: the agent has it."""
        self.n = n
        self.sandbox = sandbox
        self.pid = 0
        self.calls = 0
        self.on_exit: Callable[[Instance], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._cell = cell
        self._log = log
        self._pidfd = -1
        self._witness = Witness()
        self.held = self._witness.held
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._numbers = False
        self._late = 0  # frames for calls that were over
        self._future: asyncio.Future[Reply | Exit] | None = None
        self._pieces: Pieces | None = None  # of the call that runs
        self._began_ns = 0
        self._deadline = 0.0  # of the call that runs
        self._timer: asyncio.TimerHandle | None = None
        self._fate = ""  # why we killed it
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._exit: Exit | None = None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        doors = [] if cell is None else cell.doors()
        hello: dict[str, Any] = {"t": "fork", "n": n}
        if log_end is not None:
            doors.insert(0, log_end.detach())
            hello["log"] = True  # the first descriptor
        try:
            socket.send_fds(sock, [encode(hello)], doors)
        finally:
            for fd in doors:
                os.close(fd)
        self._channel = Channel(
            sock, self._frame, self._lost, payload_max=limits.PAYLOAD_MAX_BYTES + PAYLOAD_SLACK_BYTES
        )

    async def ready(self) -> None:
        """Until the forked process has introduced itself and is in its control group. Raises SandboxFailed."""
        try:
            async with asyncio.timeout(FORK_MAX_S):
                await self._ready
        except (TimeoutError, OSError) as exc:
            self.kill()
            self._finish(-1)
            raise SandboxFailed(f"an instance could not be forked: {str(exc) or 'no answer'}") from exc

    # --- the hot path -----------------------------------------------------------------------------------------
    def call(
        self, meta: dict[str, Any], payload: bytes, timeout_s: float, pieces: Pieces | None = None
    ) -> asyncio.Future[Reply | Exit]:
        """Run one event. Never raises for what the function does; one call at a time.

        `pieces` takes what a function that streams yields before its reply; without it, all is in the reply.
        """
        future: asyncio.Future[Reply | Exit] = self._loop.create_future()
        if self._exit is not None:
            future.set_result(self._exit)
            return future
        assert self._future is None, "one call at a time"
        self._future, self._pieces = future, pieces
        self.calls += 1
        self._began_ns = time.monotonic_ns()
        self._deadline = deadline = self._loop.time() + timeout_s
        # One timer outlives many calls: it is only moved when it would ring too late.
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._ring)
        self._channel.send({"t": "call", "c": self.calls, "timeout_ms": int(timeout_s * 1000), **meta}, payload)
        return future

    def _frame(self, meta: dict[str, Any], payload: bytes) -> None:
        kind, future = meta.get("t"), self._future
        if future is not None and (kind == "ok" or kind == "error"):
            spent = meta.get("us")
            if self._numbers and meta.get("c") != self.calls:
                if self._is_over(meta.get("c")):
                    return  # said twice: it must not answer the call that came after
            elif type(spent) is int and spent >= 0:
                self._future = None
                if not future.done():
                    future.set_result(Reply(kind == "ok", payload, spent))
                return
        elif kind == "ready" and not self._ready.done():
            self._numbers = meta.get("numbers") is True  # agents of older base layers don't say which call they answer
            self._introduce()
            return
        elif (kind == "piece" or kind == "head") and self._streamed(kind, meta.get("c"), payload):
            return
        self._garbage()

    # --- an answer that comes piece by piece -----------------------------------------------------------------------
    def _streamed(self, kind: str, number: object, payload: bytes) -> bool:
        """Pass one on, if it is what a streaming call may say."""
        if number != self.calls or self._future is None:
            return self._is_over(number)
        head = kind == "head"
        if self._pieces is None or len(payload) > (limits.HEAD_MAX_BYTES if head else limits.PIECE_MAX_BYTES):
            return False
        return self._pieces.take(head, payload)

    def credit(self, total: int) -> None:
        """Tell a function that streams how many bytes of its answer were taken; beyond a window it waits for that."""
        self._channel.send({"t": "taken", "c": self.calls, "bytes": total})

    def cancel(self) -> None:
        """Tell a function that streams that nobody takes any more; it ends where it yields next."""
        self._channel.send({"t": "cancel", "c": self.calls})

    def _is_over(self, number: object) -> bool:
        """Is it a call that is over? Said for the first few frames only: a flood of them would hold up the host."""
        self._late += 1
        return self._late <= LATE_MAX and type(number) is int and 0 < number <= self.calls - (self._future is not None)

    def _introduce(self) -> None:
        """The kernel said who sent the first frame: that process is the instance."""
        try:
            if self._channel.peer_pid > 0:
                self._pidfd = os.pidfd_open(self._channel.peer_pid)
                self.pid = self._channel.peer_pid
                self._witness.watch(self.pid, self.cpu_us())
                if self._cell is not None:
                    self._cell.admit(self.pid)
                    if not self._cell.holds(self.pid):
                        raise OSError("it is not in its control group")
            self._ready.set_result(None)
        except OSError as exc:
            self._ready.set_exception(exc)

    # --- the end ----------------------------------------------------------------------------------------------
    def _ring(self) -> None:
        self._timer = None
        if self._future is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._ring)
            return
        self._fate = "timeout"
        self._condemn()

    def _garbage(self) -> None:
        if not self._fate:  # what it has sent besides is read until it is gone
            self._fate = "closed"
            self._condemn()

    def _lost(self, why: str) -> None:
        if why == "garbage":
            self._fate = self._fate or "closed"
            self.kill()
        if self._exit is None:  # its end is under way: the zygote tells how, in a moment
            self._loop.call_later(STATUS_MAX_S, self._overdue)

    def _condemn(self) -> None:
        self.kill()
        self._loop.call_later(STATUS_MAX_S, self._overdue)

    def _overdue(self) -> None:
        if self._exit is None:
            self._fate = self._fate or "closed"
            self.kill()
            self._finish(-1)

    def kill(self) -> None:
        """Now and hard, with all its children."""
        if self._exit is not None:
            return
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            self.sandbox.ask_to_kill(self.n)
        if self._cell is not None:
            self._cell.kill()

    def exited(self, status: int) -> None:
        """The zygote's word: this wait status."""
        if self._exit is None:
            self._channel.drain()  # what it still answered counts
            if self._exit is None:
                self._finish(status)

    def _finish(self, status: int) -> None:
        spent = (time.monotonic_ns() - self._began_ns) // 1000
        killed = os.WTERMSIG(status) if status >= 0 and os.WIFSIGNALED(status) else 0
        if self._fate:
            reason, code = self._fate, killed
        elif killed == signal.SIGKILL and self._cell is not None and self._cell.oom_kills() > 0:
            reason, code = "out_of_memory", killed
        elif killed:
            reason, code = "signal", killed
        elif status >= 0:
            reason, code = "exit", os.WEXITSTATUS(status)
        else:
            reason, code = "closed", 0
        self._exit = Exit(reason, code, spent)
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(self._exit)
        if not self._ready.done():
            self._ready.set_exception(OSError(f"it ended first ({reason} {code})"))
            self._ready.exception()  # whoever forked it may have given up
        self.sandbox.instances.pop(self.n, None)
        self._loop.call_soon(self._announce)
        self._release()  # last: whatever fails in here, everybody has been told

    def _announce(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        if self.on_exit is not None:
            self.on_exit(self)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()
        if self._cell is not None:
            self._cell.remove()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._witness.close()

    def abandon(self) -> None:
        """Its sandbox is gone, and it with it."""
        if self._exit is None:
            self.exited(-1)

    async def close(self) -> None:
        """Let it go: an idle one leaves by itself, a busy one is killed. Returns when it is gone."""
        if self._exit is None:
            await self.sandbox.thaw()
        if self._exit is None:
            if self._future is not None:
                self._fate = "closed"
                self._condemn()
            else:
                self._channel.end()
                self._loop.call_later(CLOSE_MAX_S, self._overdue)
        await asyncio.shield(self._gone)

    # --- what it printed and used -----------------------------------------------------------------------------
    def read_log(self) -> bytes:
        """What it printed and nobody has read yet. Never waits."""
        return self._log.read()

    @property
    def log_dropped_bytes(self) -> int:
        """What it printed faster than anybody read, and was lost; since its beginning."""
        return self._log.dropped_bytes

    def max_memory_bytes(self) -> int:
        """Its peak so far. Without control groups: its resident set's peak, 0 where even that can't be read."""
        if self._cell is not None:
            return self._cell.max_memory_bytes()
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if self.pid else ():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0

    def cpu_us(self) -> int:
        """CPU time of its life, its children's included. Without control groups: its own, in clock ticks."""
        if self._cell is not None:
            return self._cell.cpu_us()
        with contextlib.suppress(OSError, ValueError, IndexError):
            if self.pid:
                fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) * 1_000_000 // _TICKS_PER_S
        return 0

    def runnable(self) -> bool:
        """Does it run, or would it if it had a processor? False where nobody can say."""
        with contextlib.suppress(OSError, IndexError):
            if self.pid:
                return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"
        return False
