"""The agent: what runs inside a microcontainer. Standard library only; it lies in the image as /var/runtime/agent.py.

It waits as a stem, imports one function, and from then on is a zygote: each connection that asks for it becomes one
forked instance (ARCHITECTURE.md, "The channel"). It takes no decisions: limits, deadlines and kills are the invoker's.
What it needs is imported before the user's folders join sys.path, so that no json.py of theirs can shadow ours.
What a function is, and how one event goes through it: jiffy_function.py, beside it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from builder.runtimes.python.jiffy_frames import read_call, read_frame, send_frame
    from builder.runtimes.python.jiffy_function import Context as Context
    from builder.runtimes.python.jiffy_function import (
        Function,
        LoadError,
        exit_status,
        flush,
        load_handler,
        prepare,
        run,
    )
    from builder.runtimes.python.jiffy_process import limit, refresh, remove_tree, seal_memory, subreaper
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # an isolated interpreter does not do it
    from jiffy_frames import read_call, read_frame, send_frame
    from jiffy_function import Context, Function, LoadError, exit_status, flush, load_handler, prepare, run
    from jiffy_process import limit, refresh, remove_tree, seal_memory, subreaper

    del sys.path[0]

SOCKET = "/run/jiffy/agent.sock"
LONELY_S = 60.0  # a stem that nobody connects to was orphaned before it could be owned
HELLO_S = 5.0  # the invoker greets in the same breath as it connects
OPEN_FILES_MAX = 1024
# Bound before the function is there, which may replace them where they stand (gevent does, and so may malice).
exit_now, fork, kill, monotonic_ns, waitpid = os._exit, os.fork, os.kill, time.monotonic_ns, os.waitpid
DESCRIPTORS_MAX = 5  # in a hello: a log's end, control groups
ASYNC = 0x80 | 0x200  # inspect.CO_COROUTINE, CO_ASYNC_GENERATOR, without importing inspect


# --- one instance --------------------------------------------------------------------------------------------
def serve(conn: socket.socket, handler: Callable[[Any, Any], Any], function: Function) -> None:
    """Answer calls until the invoker closes the connection."""
    while (call := read_call(conn)) is not None:
        meta, event = call
        ok, payload, spent = run(handler, event, Context(function, meta["id"], meta["timeout_ms"]))
        flush()
        send_frame(conn, b'{"t":"%s","c":%d,"us":%d}' % (b"ok" if ok else b"error", meta["c"], spent), payload)


def redirect(log: socket.socket) -> None:
    """Standard output and error go to the invoker, for C code and subprocesses as well."""
    flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    log.close()


# --- the zygote ----------------------------------------------------------------------------------------------
class Zygote:
    """Owns the listener and the control connection; forks, reaps and reports."""

    def __init__(self, listener: socket.socket, control: socket.socket) -> None:
        self.listener, self.control = listener, control
        self.logs: dict[int, socket.socket] = {}
        self.instances: dict[int, int] = {}  # pid → n
        self.handler: Callable[[Any, Any], Any] | None = None
        self.function = Function(name="none")
        self.alone = False  # no cgroups: limits and strays are ours to mind
        self.serve_calls: Callable[[socket.socket, Callable[[Any, Any], Any], Function], None] = serve
        self.wake, self.wake_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.user_sigchld: Any = signal.SIG_DFL

    def serve(self) -> None:
        poll = select.poll()
        for fd in (self.listener.fileno(), self.control.fileno(), self.wake):
            poll.register(fd, select.POLLIN)
        self.watch_children()
        while True:
            for fd, _ in poll.poll():
                if fd == self.wake:
                    self.reap()
                elif fd == self.control.fileno():
                    self.obey()
                else:
                    self.accept()

    def watch_children(self) -> None:
        """(Again) after the import, too: user code may have taken the signal."""
        self.user_sigchld = signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self.wake_end, warn_on_full_buffer=False)

    def obey(self) -> None:
        frame = read_frame(self.control)
        if frame is None:  # the invoker is gone: nobody must stay behind
            for pid in self.instances:
                kill(pid, signal.SIGKILL)
            exit_now(0)  # of process 1: the kernel kills all others of this namespace
        meta, _ = frame
        if meta["t"] == "load":
            self.load(meta)
        elif meta["t"] == "kill":
            for pid, n in self.instances.items():
                if n == meta["n"]:
                    kill(pid, signal.SIGKILL)

    def load(self, meta: dict[str, Any]) -> None:
        while 0 not in self.logs:
            self.accept()
        redirect(self.logs.pop(0))
        self.function = Function(
            name=meta["function"], tenant=meta["tenant"], revision=meta["revision"], memory_mb=meta["memory_mb"]
        )
        self.alone = meta.get("alone", False)
        if self.alone:
            limit("RLIMIT_NPROC", meta["pids_max"])
        if meta.get("stream"):
            self.stream()
        prepare(meta["handler"], self.function, meta["env"])
        own_path = list(sys.path[2:])
        began = monotonic_ns()
        try:
            self.handler = load_handler(meta["handler"], self.function)
        except LoadError as exc:
            flush()
            send_frame(self.control, b'{"t":"failed"}', json.dumps(exc.error).encode())
            return
        if getattr(getattr(self.handler, "__code__", None), "co_flags", 0) & ASYNC:
            users, sys.path[:] = list(sys.path), own_path
            import asyncio  # noqa: F401 - once here rather than in every instance

            sys.path[:] = users
        spent = (monotonic_ns() - began) // 1000
        flush()
        self.watch_children()
        gc.freeze()  # so that a collection in an instance does not touch, and copy, every shared page; a last one
        # before it finds next to nothing after an import, and costs what a large package has of objects (30 ms: pandas)
        send_frame(self.control, b'{"t":"loaded","import_us":%d}' % spent)

    def stream(self) -> None:
        """The function streams its answers: others need nothing of this."""
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        self.serve_calls = __import__("jiffy_stream").serve
        del sys.path[0]

    def accept(self) -> None:
        conn, _ = self.listener.accept()
        conn.settimeout(HELLO_S)
        try:
            data, groups, _, _ = socket.recv_fds(conn, 4096, DESCRIPTORS_MAX)
            hello = json.loads(data[8:])
            if hello.get("log"):
                self.logs[hello["n"]] = socket.socket(fileno=groups.pop(0))
        except (OSError, ValueError):
            hello, groups = {"t": ""}, []
        conn.settimeout(None)  # whatever socket.setdefaulttimeout the user chose
        if hello["t"] == "log":
            self.logs[hello["n"]] = conn
        elif hello["t"] == "fork" and self.handler is not None:
            self.fork(conn, hello["n"], groups)
        else:
            conn.close()
        for fd in groups:
            os.close(fd)

    def fork(self, conn: socket.socket, n: int, groups: list[int]) -> None:
        log = self.logs.pop(n, None)
        flush()
        try:
            pid = fork()
        except OSError:  # no room for another process: the closed connection says so
            pid = -1
        if pid == 0:
            status = 1
            try:
                for fd in groups:  # into our control groups: by ourselves, since that takes no lock of the whole host
                    os.write(fd, b"0")
                    os.close(fd)
                status = self.become(conn, log, n)
            finally:
                exit_now(status)
        if pid > 0:
            self.instances[pid] = n
        conn.close()
        if log is not None:
            log.close()

    def become(self, conn: socket.socket, log: socket.socket | None, n: int) -> int:
        """The forked child: serve as instance `n`, and say with which status to exit."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self.user_sigchld)
        for sock in (self.listener, self.control, *self.logs.values()):
            sock.close()
        os.close(self.wake)
        os.close(self.wake_end)
        if log is not None:
            redirect(log)
        self.function.log_stream = f"[{self.function.revision}]{n}"
        scratch = f"/tmp/i-{n}"
        try:
            os.mkdir(scratch, 0o700)
            os.environ["TMPDIR"] = scratch
        except OSError:  # /tmp is full: the function's own doing, and for it to notice
            pass
        os.environ["AWS_LAMBDA_LOG_STREAM_NAME"] = self.function.log_stream
        refresh()
        if self.alone:
            limit("RLIMIT_DATA", int(self.function.memory_mb) * 1024 * 1024)
            subreaper()
        assert self.handler is not None
        send_frame(conn, b'{"t":"ready","pid":%d,"numbers":true}' % os.getpid())
        try:
            self.serve_calls(conn, self.handler, self.function)
        except SystemExit as exc:
            status = exit_status(exc.code)
            flush()
            return status
        remove_tree(scratch)
        return 0

    def reap(self) -> None:
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            pass
        ended = []
        while True:
            try:
                pid, status = waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self.instances:
                ended.append((self.instances.pop(pid), status))
        if ended and self.alone:
            self.kill_strays()
        for n, status in ended:
            send_frame(self.control, b'{"t":"exited","n":%d,"status":%d}' % (n, status))
            if os.path.isdir(f"/tmp/i-{n}"):
                self.sweep(f"/tmp/i-{n}")

    def sweep(self, scratch: str) -> None:
        """Remove what a killed instance left, in a process of its own: it may be a great deal."""
        try:
            if fork() == 0:
                try:
                    remove_tree(scratch)
                finally:
                    exit_now(0)
        except OSError:
            pass

    def kill_strays(self) -> None:
        """Without cgroups: children of ours that are no instances were left by an instance that has ended."""
        own = b"%d" % os.getpid()
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in self.instances:
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        if file.read().rpartition(b")")[2].split()[1] == own:
                            kill(int(name), signal.SIGKILL)
                except OSError:
                    pass


def _nothing(_signal: int, _frame: FrameType | None) -> None:
    """Having a handler is what makes the kernel's signal reach the wake-up pipe."""


def listen() -> socket.socket:
    inherited = os.environ.pop("JIFFY_LISTEN_FD", None)
    if inherited is not None:
        return socket.socket(fileno=int(inherited))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0)  # who may connect is the folder's matter
    listener.bind(SOCKET + ".new")
    os.umask(mask)
    listener.listen(1024)
    os.rename(SOCKET + ".new", SOCKET)  # who finds the name finds a listener
    return listener


def furnish() -> None:
    """Have all there that a stem needs, while nobody waits, and before a user's traceback.py could be found."""
    import resource  # noqa: F401
    import traceback  # noqa: F401

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    gc.collect()
    gc.freeze()  # the function's load then has only its own objects to look through


def beget(fd: int) -> None:
    """Be a nursery; what returns is one of its children, a stem to be."""
    before = set(sys.modules)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import jiffy_nursery  # type: ignore[import-not-found]

    del sys.path[0]
    jiffy_nursery.beget(fd)
    for name in set(sys.modules) - before:
        del sys.modules[name]  # a stem's are the same, whichever way it was started


def main() -> None:
    nursery = os.environ.pop("JIFFY_NURSERY_FD", None)
    if nursery is not None:
        furnish()
        beget(int(nursery))
    seal_memory()
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_NOFILE", OPEN_FILES_MAX)
    listener = listen()
    listener.settimeout(LONELY_S)
    control, _ = listener.accept()
    listener.settimeout(None)
    control.settimeout(None)
    if nursery is None:
        furnish()
    send_frame(control, b'{"t":"stem","logs":true}')
    Zygote(listener, control).serve()


if __name__ == "__main__":
    main()
