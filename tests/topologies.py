"""Several real servers that are one Redis: a primary with its replicas under Sentinel, or a cluster of three primaries.

with topologies.sentinel() as group:
    primary.client(group.url)
    group.fail_over()          # the primary is killed; returns when another one is
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from jiffy import primary
from tests.benchmarks.platform import free_port
from tests.servers import START_S, RedisServer, binary

SERVICE = "main"
NAME = "shop"  # of the platform in the cluster
SLOTS = ((0, 5460), (5461, 10922), (10923, 16383))


class Group:
    """Servers, and the URL under which they are one."""

    def __init__(self, url: str, servers: list[RedisServer]) -> None:
        self.url = url
        self.servers = servers
        self._hit = servers[0]  # what was killed or paused last

    # --- as one server, to which things happen: the primary of the moment -----------------------------------------

    fell = False  # it never ends as a whole

    def start(self) -> None:
        """What was killed comes back, soon as a replica."""
        if not self._hit.running:
            self._hit.start()

    def kill(self) -> None:
        self._hit = self.primary()
        self._hit.kill()

    def signal(self, number: signal.Signals) -> None:
        if number == signal.SIGSTOP:
            self._hit = self.primary()
        self._hit.signal(number)

    def stop(self) -> None:
        """Who made it ends it."""

    # --- as several -----------------------------------------------------------------------------------------------

    def primary(self) -> RedisServer:
        """The one to which `url` leads, as soon as it leads to one."""
        ports: list[int] = []
        until(lambda: ports.append(self._port()) or ports)
        return next(server for server in self.servers if server.port == ports[0])

    def _port(self) -> int:
        with contextlib.closing(primary.blocking(self.url, socket_timeout=1.0)) as client:
            return int(client.config_get("port")["port"])

    def replicas(self) -> list[RedisServer]:
        """Of the primary."""
        return [server for server in self.servers if server.running and b"slave" in ask(server, "ROLE")]

    def fail_over(self) -> RedisServer:
        """Kill the primary; the new one."""
        old = self.primary()
        old.kill()
        until(lambda: self.primary() is not old)
        return self.primary()


def until(true: Callable[[], Any]) -> None:
    """Wait for it: servers tell nobody when they have agreed."""
    give_up = time.monotonic() + START_S
    while True:
        with contextlib.suppress(redis.RedisError):
            if true():
                return
        assert time.monotonic() < give_up, "they do not come to an agreement"
        time.sleep(0.02)


def ask(server: RedisServer, *command: str | int) -> Any:
    with redis.Redis.from_url(server.url, protocol=2) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jiffy-test-redis-") as name:
        yield Path(name)


def _server(folder: Path, name: str, options: dict[str, str], *, persistent: bool = False) -> RedisServer:
    (folder / name).mkdir()
    return RedisServer(
        folder / name,
        persistent=persistent,
        fsync="always",
        address=("127.0.0.1", free_port()),
        options={"repl-diskless-sync-delay": "0"} | options,
    )


@contextlib.contextmanager
def sentinel(replicas: int = 2, *, persistent: bool = False) -> Iterator[Group]:
    """A primary with its replicas, and one Sentinel that decides alone."""
    with _folder() as folder, contextlib.ExitStack() as stack:
        servers = [_server(folder, f"redis-{n}", {}, persistent=persistent) for n in range(1 + replicas)]
        for server in servers:
            server.start()
            stack.callback(server.stop)
        for server in servers[1:]:
            ask(server, "REPLICAOF", "127.0.0.1", servers[0].port)
        port = free_port()
        stack.enter_context(_sentinel(folder, port, servers[0].port))
        with redis.Redis(port=port, protocol=2) as asked:
            until(lambda: len(asked.execute_command("SENTINEL", "REPLICAS", SERVICE)) == replicas)  # type: ignore[no-untyped-call]
        until(lambda: ask(servers[0], "WAIT", replicas, 100) == replicas)
        yield Group(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}", servers)


@contextlib.contextmanager
def _sentinel(folder: Path, port: int, watched: int) -> Iterator[None]:
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\ndir {folder}\nlogfile {folder}/sentinel.log\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {watched} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 2000\n"
    )
    process = subprocess.Popen([binary(), str(settings), "--sentinel"], stdin=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as client:
            until(client.ping)
        yield
    finally:
        process.terminate()
        process.wait(START_S)


@contextlib.contextmanager
def cluster(replicas: int = 2) -> Iterator[Group]:
    """Three nodes with a third of the slots each, and replicas of the one that has the slot of NAME."""
    with _folder() as folder, contextlib.ExitStack() as stack:
        bus = [free_port() for _ in range(len(SLOTS) + replicas)]
        options = {"cluster-enabled": "yes", "cluster-node-timeout": "1500", "cluster-replica-validity-factor": "0"}
        servers = [_server(folder, f"redis-{n}", options | {"cluster-port": str(port)}) for n, port in enumerate(bus)]
        for server in servers:
            server.start()
            stack.callback(server.stop)
        for server, (first, last) in zip(servers, SLOTS, strict=False):
            ask(server, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for server, port in zip(servers[1:], bus[1:], strict=True):
            ask(servers[0], "CLUSTER", "MEET", "127.0.0.1", server.port, port)
        for server in servers:
            until(lambda server=server: _knows(server, len(servers)))  # type: ignore[misc]
        url = f"redis+cluster://127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}/{NAME}"
        group = Group(url, servers)
        owner = group.primary()
        for server in servers[len(SLOTS) :]:
            ask(server, "CLUSTER", "REPLICATE", ask(owner, "CLUSTER", "MYID"))
        until(lambda: ask(owner, "WAIT", replicas, 100) == replicas)
        for server in servers:
            until(lambda server=server: ask(server, "CLUSTER", "NODES").count(b"slave") == replicas)  # type: ignore[misc]
        yield group


def _knows(server: RedisServer, nodes: int) -> bool:
    info = ask(server, "CLUSTER", "INFO")
    return b"cluster_state:ok" in info and f"cluster_known_nodes:{nodes}".encode() in info
