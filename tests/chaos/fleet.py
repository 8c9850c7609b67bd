"""Gateways, invokers and the ledger as real processes over one persistent Redis, and what can be done to each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from builder.runtimes.python import base
from jiffy.contract.messages import Revision
from tests.benchmarks.platform import free_port
from tests.chaos.schedule import Event, Kind
from tests.chaos.wire import Wire
from tests.gateway.fake_invoker import publish
from tests.invoker.lab import Lab
from tests.servers import RedisServer

FUNCTION = "work"
CODE = """
import time
def handler(event, context):
    time.sleep(event["s"])
    if event["fail"]:
        raise ValueError(event["n"])
    return {"n": event["n"]}
"""
END_S = 30.0
SUPERVISE_S = 0.5


class Member:
    """One process behind its wire. It is started again under the same name, as a supervisor would."""

    def __init__(self, name: str, command: list[str], wire: Wire, log: Path) -> None:
        self.name = name
        self._command = command
        self.wire = wire
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command, "--redis", self.wire.url],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("JIFFY_")},
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


class Fleet:
    """All processes. `ports` are the gateways'."""

    def __init__(self, folder: Path, gateways: int, invokers: int) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(mode=0o755)
        (folder / "redis").mkdir()
        self.redis = RedisServer(folder / "redis", persistent=True, fsync="always")  # with less, a kill may lose
        self.ports = [free_port() for _ in range(gateways)]
        self.members: dict[str, Member] = {}
        self.restarts = 0  # of processes that nobody killed
        self._down: set[str] = set()
        for n, port in enumerate(self.ports, 1):
            self._add(f"gw-{n}", ["gateway", "--data", str(self.data), "--port", str(port), "--name", f"gw-{n}"])
        self._add("ledger", ["gateway.ledger", "--data", str(self.data)])
        for n in range(1, invokers + 1):
            # An invoker clears its name's control groups when it starts: two fleets on one machine must not share any.
            options = ["--sandbox", "bwrap", "--stems", "1", "--id", f"chaos-{os.getpid()}-{n}"]
            self._add(f"inv-{n}", ["invoker", "--data", str(self.data), *options])

    def _add(self, name: str, command: list[str]) -> None:
        wire = Wire(self.folder / f"{name}.sock", self.redis.socket)
        self.members[name] = Member(name, command, wire, self.folder / f"{name}.log")

    @property
    def targets(self) -> list[str]:
        return ["redis", *self.members]

    async def start(self) -> None:
        await asyncio.to_thread(self.redis.start)
        lab = Lab(None, self.data, base.ensure(self.data))  # type: ignore[arg-type]  # it only writes layers
        made: Revision = lab.revision(CODE)
        spec = {"retries": 1, "backoff_s": 0.2}
        changes = made._asdict() | {"max_instances": 20, "timeout_ms": 5000, "spec": spec}
        for known in ("tenant", "function", "number"):
            del changes[known]
        await publish(self.redis.url, FUNCTION, **changes)
        for member in self.members.values():
            await member.wire.start()
            member.start()

    async def happen(self, event: Event) -> None:
        """One event, from its beginning to its end."""
        if event.target == "redis":
            await self._happen_to_redis(event)
            return
        member = self.members[event.target]
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
            case Kind.CUT | Kind.STALL:
                change = member.wire.cut if event.kind is Kind.CUT else member.wire.stall
                change(True)
                await asyncio.sleep(event.seconds)
                change(False)

    async def _happen_to_redis(self, event: Event) -> None:
        if event.kind is Kind.KILL:
            await asyncio.to_thread(self.redis.kill)
            await asyncio.sleep(event.seconds)
            await asyncio.to_thread(self.redis.start)
        else:
            self.redis.signal(signal.SIGSTOP)
            await asyncio.sleep(event.seconds)
            self.redis.signal(signal.SIGCONT)

    async def supervise(self) -> None:
        """Start again who ended by itself, as one that starts while Redis is away does; until cancelled."""
        while True:
            await asyncio.sleep(SUPERVISE_S)
            for name, member in self.members.items():
                if member.fell and name not in self._down:
                    self.restarts += 1
                    member.start()

    async def stop(self) -> None:
        for member in self.members.values():
            if not member.fell:
                member.signal(signal.SIGTERM)
        for member in self.members.values():
            await member.ended()
            await member.wire.close()
        await asyncio.to_thread(self.redis.stop)
