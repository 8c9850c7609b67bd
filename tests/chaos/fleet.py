"""Gateways, invokers and the ledger as real processes over one persistent Redis, and what can be done to each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from redis.exceptions import RedisError

from builder.runtimes.python import base
from jiffy.contract import triggers
from jiffy.contract.messages import Revision
from tests.benchmarks.platform import free_port
from tests.chaos.disk import Disk
from tests.chaos.network import Host, Network
from tests.chaos.schedule import Event, Kind
from tests.chaos.wire import Straight, Wire
from tests.engines import Engine
from tests.gateway.fake_invoker import publish
from tests.invoker.lab import Lab
from tests.servers import RedisServer
from tests.topologies import Group

FUNCTION, HEARING, TOPIC = "work", "hear", "news"
KEY = "chaos"  # whoever serves beyond loopback has one
CODE = """
import time
def handler(event, context):
    time.sleep(event.get("s", 0))
    if event.get("fail"):
        raise ValueError(event["n"])
    return {"n": event["n"]}

def hear(event, context):
    print(f"heard {event['data']['n']}.")
"""
END_S = 30.0
SUPERVISE_S = 0.5
AGAIN_MAX_S = 8.0  # the longest pause before one that ends at once is started again
LOST_SHARE = 0.2  # of a host's packets, in and out, while it suffers from loss
REDIS_PORT, GATEWAY_PORT = 6379, 8080
SKEWS_S = (0, 137, -3600)  # how far the hosts' wall clocks are off, in turn


class Link(Protocol):
    """How a process reaches Redis: a wire, or a host's network."""

    url: str
    enter: list[str]

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def cut(self, on: bool) -> None: ...
    def stall(self, on: bool) -> None: ...


class Member:
    """One process at its link. It is started again under the same name, as a supervisor would."""

    def __init__(self, name: str, command: list[str], link: Link, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self.link = link
        self._log = log
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("JIFFY_")} | dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.link.enter, sys.executable, "-m", *self._command, "--redis", self.link.url],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self) -> None:
        assert self._process is not None
        await asyncio.to_thread(self._process.wait, END_S)

    @property
    def fell(self) -> bool:
        """Has it ended though nobody killed it?"""
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Fleet:
    """All processes. `urls` are the gateways'.

    With a `network` each process is on a host of its own; else all are on this one, behind wires, or `straight` at
    Redis. Redis and the ledger lie on the `disk`, or in the folder; in place of Redis there may be a `group` that is
    one. The last invoker's sandboxes are the `engine`'s, where there is one.
    """

    def __init__(
        self,
        folder: Path,
        gateways: int,
        invokers: int,
        network: Network | None = None,
        disk: Disk | None = None,
        engine: Engine | None = None,
        *,
        straight: bool = False,
        invoker_options: Sequence[str] = (),
        max_instances: int = 20,
        group: Group | None = None,
    ) -> None:
        self._max_instances = max_instances
        self._straight = straight or group is not None
        self.folder = folder
        self._network, self._disk, self._engine = network, disk, engine
        store = disk.folder if disk else folder
        self.data = store / "data"
        self.data.mkdir(mode=0o755)
        (store / "redis").mkdir()
        address = (network.address, REDIS_PORT) if network else None
        # with less than "always", a kill of Redis may lose what it has answered
        self.redis = group or RedisServer(store / "redis", persistent=True, fsync="always", address=address)
        self.urls: list[str] = []
        self.members: dict[str, Member] = {}
        self.restarts = 0  # of processes that nobody killed
        self._down: set[str] = set()
        for n in range(1, gateways + 1):
            self._add_gateway(f"gw-{n}")
        self._add("ledger", ["gateway.ledger", "--data", str(self.data)], self._link("ledger"))
        for n in range(1, invokers + 1):
            # An invoker clears its name's control groups when it starts: two fleets on one machine must not share any.
            sandbox = "docker" if engine and n == invokers else "bwrap"
            options = ["--sandbox", sandbox, "--stems", "1", "--id", f"chaos-{os.getpid()}-{n}", *invoker_options]
            self._add(f"inv-{n}", ["invoker", "--data", str(self.data), *options], self._link(f"inv-{n}"))

    def _link(self, name: str) -> Link:
        if self._straight:
            return Straight(self.redis.url)
        if self._network is None:
            assert isinstance(self.redis, RedisServer)
            return Wire(self.folder / f"{name}.sock", self.redis.socket)
        return self._network.host(f"redis://{self._network.address}:{REDIS_PORT}")

    def _add_gateway(self, name: str) -> None:
        link = self._link(name)
        host, port = (link.address, GATEWAY_PORT) if isinstance(link, Host) else ("127.0.0.1", free_port())
        self.urls.append(f"http://{host}:{port}")
        at = ["--data", str(self.data), "--host", host, "--port", str(port), "--name", name]
        self._add(name, ["gateway", *at], link)

    def _add(self, name: str, command: list[str], link: Link) -> None:
        env = {"JIFFY_API_KEY": KEY}
        if self._engine:
            env["DOCKER_HOST"] = self._engine.url
        skew_s = SKEWS_S[len(self.members) % len(SKEWS_S)]
        command = ["tests.chaos.skewed", str(skew_s), *command]
        self.members[name] = Member(name, command, link, self.folder / f"{name}.log", env)

    @property
    def targets(self) -> list[str]:
        more = [name for name, there in (("disk", self._disk), ("engine", self._engine)) if there]
        return ["redis", *self.members, *more]

    @property
    def kinds(self) -> frozenset[Kind]:
        """What can happen here."""
        if self._straight:
            return frozenset((Kind.KILL, Kind.PAUSE))
        return frozenset(Kind) - (frozenset() if self._network else {Kind.LOSS})

    async def start(self) -> None:
        await asyncio.to_thread(self.redis.start)
        lab = Lab(None, self.data, base.ensure(self.data))  # type: ignore[arg-type]  # it only writes layers
        made = lab.revision(CODE)
        await self._publish(made, FUNCTION, {"retries": 1, "backoff_s": 0.2})
        heard = {"type": "topic", "topic": TOPIC, "tries": 1000, "retry_delay_s": 0.2}
        await self._publish(made, HEARING, {"triggers": list(triggers.check([heard]))}, handler="app:hear")
        for member in self.members.values():
            await member.link.start()
            member.start()

    async def _publish(self, made: Revision, name: str, spec: Mapping[str, object], **changes: object) -> None:
        fixed = {key: value for key, value in made._asdict().items() if key not in ("tenant", "function", "number")}
        ours = {"max_instances": self._max_instances, "timeout_ms": 5000, "spec": dict(spec)}
        await publish(self.redis.url, name, **fixed | ours | changes)

    def gateways(self) -> list[int]:
        """The gateways' processes."""
        return [member.pid for name, member in self.members.items() if name.startswith("gw-")]

    def up(self, target: str) -> bool:
        return target not in self._down

    async def happen(self, event: Event) -> None:
        """One event, from its beginning to its end; nothing, to who is not up again since the last one."""
        if not self.up(event.target):
            return
        match event.target:
            case "redis":
                await self._happen_to_redis(event)
            case "disk":
                assert self._disk is not None
                await asyncio.to_thread(self._disk.fill, True)
                await asyncio.sleep(event.seconds)
                await asyncio.to_thread(self._disk.fill, False)
            case "engine":
                await self._happen_to_engine(event)
            case _:
                await self._happen_to_member(event, self.members[event.target])

    async def _happen_to_member(self, event: Event, member: Member) -> None:
        link = member.link
        match event.kind:
            case Kind.KILL:
                self._down.add(event.target)
                member.signal(signal.SIGKILL)
                await member.ended()
                await asyncio.sleep(event.seconds)
                member.start()
                self._down.discard(event.target)
            case Kind.PAUSE:
                member.signal(signal.SIGSTOP)
                await asyncio.sleep(event.seconds)
                member.signal(signal.SIGCONT)
            case Kind.LOSS:
                assert isinstance(link, Host)
                link.lose(True, LOST_SHARE)
                await asyncio.sleep(event.seconds)
                link.lose(False, LOST_SHARE)
            case _:
                change = link.cut if event.kind is Kind.CUT else link.stall
                change(True)
                await asyncio.sleep(event.seconds)
                change(False)

    async def _happen_to_redis(self, event: Event) -> None:
        if event.kind is Kind.KILL:
            self._down.add("redis")
            await asyncio.to_thread(self.redis.kill)
            await asyncio.sleep(event.seconds)
            await self._start_redis()
        else:
            self.redis.signal(signal.SIGSTOP)
            await asyncio.sleep(event.seconds)
            self.redis.signal(signal.SIGCONT)

    async def _start_redis(self) -> None:
        """Until it has loaded its data. With a full disk it may end again at once: `supervise` sees to it then."""
        self._down.add("redis")
        with contextlib.suppress(RedisError):
            await asyncio.to_thread(self.redis.start)
        self._down.discard("redis")

    async def _happen_to_engine(self, event: Event) -> None:
        assert self._engine is not None
        before, after = (
            (self._engine.stop, self._engine.start)
            if event.kind is Kind.RESTART
            else (self._engine.hang, self._engine.go_on)
        )
        self._down.add("engine")
        await asyncio.to_thread(before)
        await asyncio.sleep(event.seconds)
        await asyncio.to_thread(after)
        self._down.discard("engine")

    async def supervise(self) -> None:
        """Start again who ended by itself, as one that starts while Redis is away does; until cancelled."""
        pauses: dict[str, tuple[float, float]] = {}  # name → how long the next one is, when it is over
        while True:
            await asyncio.sleep(SUPERVISE_S)
            if self.redis.fell and "redis" not in self._down:
                self.restarts += 1  # it may write no more: with "always" it ends rather than answer what it can't keep
                await self._start_redis()
            now_s = asyncio.get_running_loop().time()
            for name, member in self.members.items():
                pause_s, over_s = pauses.get(name, (SUPERVISE_S, 0.0))
                if member.fell and name not in self._down and now_s >= over_s:
                    self.restarts += 1
                    member.start()
                    again_s = SUPERVISE_S if now_s - over_s > AGAIN_MAX_S else min(AGAIN_MAX_S, 2 * pause_s)
                    pauses[name] = again_s, now_s + again_s

    async def stop(self) -> None:
        for member in self.members.values():
            if not member.fell:
                member.signal(signal.SIGTERM)
        for member in self.members.values():
            await member.ended()
            await member.link.close()
        await asyncio.to_thread(self.redis.stop)
