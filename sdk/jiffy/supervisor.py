"""The story of `jiffy up`: take the data folder and the port, start all processes of the platform, keep them.

    Valkey first, then the rest at once → one ready line → whoever dies is started again, or all is given up
    → on a signal: gateways and ledger end first, then invoker and builder, then Valkey

What they do is theirs; the supervisor carries no call. One process: process.py. The data folder and its lock: home.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from . import health, queue
from .contract import address, endings, keys
from .contract.errors import Unavailable
from .contract.registry import AUTH
from .home import Home
from .listener import listen, loopback, url_of
from .process import Command, Process, how, pause

T = TypeVar("T")

LOOK_S = 0.02  # how often we ask whether what we started is there
SLOW_START_S = 10.0  # after so long we say what we are waiting for
SECRETS = ("JIFFY_API_KEY", "JIFFY_REDIS", "JIFFY_LEDGER", AUTH)  # given to those alone who need them
SLOW_LOAD_S = 300.0  # a large append-only file takes its time


class Phase(Enum):
    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `jiffy up` was told."""

    host: str
    port: int
    data: Path
    redis: str | None = None  # None: an embedded one
    sandbox: str = "auto"  # or "docker", "bwrap"
    gateways: int = 1
    stems: int = 2
    instances: int = 0  # 0: as many as the host has room for
    tenant_instances: int = 0  # 0: no bound
    keep_alive: str = "hit-density"
    warm_mb: int = 0  # 0: a share of the host's memory
    ledger: str | None = None  # None: an SQLite file in the data folder
    keep_calls: int = 0  # days; 0: for ever
    prices: Path | None = None  # None: those that the ledger has
    verbose: bool = False
    api_key: str | None = None
    allow_hosts: tuple[str, ...] = ()  # names that gateways answer to without a key, beside loopback's
    files: tuple[Path, ...] = ()  # folders that triggers may watch
    callbacks_to: tuple[str, ...] = ()  # networks that callbacks may reach though they are not public
    keys: Path | None = None  # API keys of tenants
    registry: str = ""  # where layers go that other hosts pull
    registry_auth: str = ""  # its user:password; for builder and invoker alone


class Supervisor:
    """`say` tells people one line; `ready` gets the one line that says where the platform is."""

    def __init__(self, plan: Plan, *, say: Callable[[str], None], ready: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._ready = ready
        # Where only tenants have keys, we need one of our own to ask how the platform is.
        self._api_key = plan.api_key or (secrets.token_urlsafe(32) if plan.keys else None)
        self._phase = Phase.STARTING
        self._running: dict[str, Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Returns after a signal ended it in good order. Raises JiffyError with the one line to show."""
        plan = self._plan
        if not self._api_key and not loopback(plan.host):
            raise Unavailable(
                f"--host {plan.host} can be reached from outside: set JIFFY_API_KEY to the key that calls must carry"
            )
        if plan.redis:
            await self._look_at(plan.redis)
        with contextlib.ExitStack() as stack:
            home = await asyncio.to_thread(Home, plan.data, self._say)
            stack.callback(home.close)
            listener = stack.enter_context(listen(plan.host, plan.port))
            run_fd = os.open(home.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, run_fd)
            redis_url = plan.redis or queue.socket_url(home.run, run_fd)
            try:
                await self._until_signal(self._serve(home, listener, redis_url))
            finally:
                self._phase = Phase.ENDING
                listener.close()  # whoever calls now is refused at once
                await self._end()

    async def _serve(self, home: Home, listener: socket.socket, redis_url: str) -> None:
        if not self._plan.redis:
            self._keep(home, self._command(home, "valkey", ["exec", *queue.command(home.valkey)]))
            await self._watching(self._queue_answers(redis_url))
        where = ["--data", str(home.path)]
        queued = {"JIFFY_REDIS": redis_url}  # URLs hold passwords, and a command line can be read by everyone here
        booked = queued | ({"JIFFY_LEDGER": self._plan.ledger} if self._plan.ledger else {})
        secret = booked | ({"JIFFY_API_KEY": self._api_key} if self._api_key else {})
        kept = ["--keep-calls", str(self._plan.keep_calls)]
        self._keep(home, self._command(home, "ledger", ["gateway.ledger", *where, *kept])._replace(secrets=booked))
        book = ["--prices", str(self._plan.prices)] if self._plan.prices else []
        book += ["--keys", str(self._plan.keys)] if self._plan.keys else []
        book += [word for name in self._plan.allow_hosts for word in ("--allow-host", name)]
        book += [word for folder in self._plan.files for word in ("--files", str(folder))]
        book += [word for network in self._plan.callbacks_to for word in ("--callbacks-to", network)]
        for n in range(self._plan.gateways):
            name = f"gateway-{n + 1}" if self._plan.gateways > 1 else "gateway"
            identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"  # unique among all that share a Redis
            argv = ["gateway", "--fd", str(listener.fileno()), *where, "--name", identity, *book]
            self._keep(home, self._command(home, name, argv, (listener.fileno(),))._replace(secrets=secret))
        shelf = ["--registry", self._plan.registry] if self._plan.registry else []
        opens = queued | ({AUTH: self._plan.registry_auth} if self._plan.registry_auth else {})
        self._keep(home, self._command(home, "builder", ["builder", *where, *shelf])._replace(secrets=opens))
        keeping = [*shelf, "--sandbox", self._plan.sandbox, "--stems", str(self._plan.stems)]
        keeping += ["--instances", str(self._plan.instances), "--tenant-instances", str(self._plan.tenant_instances)]
        keeping += ["--keep-alive", self._plan.keep_alive, "--warm-mb", str(self._plan.warm_mb)]
        self._keep(home, self._command(home, "invoker", ["invoker", *where, *keeping])._replace(secrets=opens))
        address = listener.getsockname()
        sandbox = await self._watching(self._healthy(address))
        self._phase = Phase.READY
        self._ready(f"jiffy is ready at {url_of(address)}  (sandbox: {sandbox}, data: {home.path})")
        await self._watching(asyncio.Event().wait())

    def _command(self, home: Home, name: str, argv: list[str], fds: tuple[int, ...] = ()) -> Command:
        return Command(name, argv, None if self._plan.verbose else home.log(name), (home.lock_fd, *fds))

    # --- keeping ----------------------------------------------------------------------------------------------

    def _keep(self, home: Home, command: Command) -> None:
        self._keepers[command.name] = asyncio.create_task(self._keeper(command, home.path), name=command.name)

    async def _keeper(self, command: Command, cwd: Path) -> None:
        """Runs a child for as long as the platform lives. Raises Unavailable when that is no use."""
        env = {name: value for name, value in os.environ.items() if name not in SECRETS}
        deaths: list[float] = []
        while True:
            try:
                child = self._running[command.name] = await Process.start(command, env, cwd)
            except OSError as exc:
                raise Unavailable(f"can't start the {command.name}: {exc}") from exc
            status = await child.wait()
            del self._running[command.name]
            if self._phase is Phase.ENDING:
                return
            deaths.append(time.monotonic())
            wait_s = pause(deaths, deaths[-1])
            words = child.last_words()
            if self._phase is Phase.STARTING and status > 0:
                raise Unavailable(f"the {command.name} can't start:{_block(words) or ' it ' + how(status)}")
            if wait_s is None:
                raise Unavailable(
                    f"the {command.name} {how(status)}, the {len(deaths)}th time; giving up. "
                    f"Its last words ({command.log or 'stderr'}):{_block(words) or ' none'}"
                )
            self._say(
                f"the {command.name} {how(status)}; starting it again in {wait_s:g} s ({command.log or 'stderr'})"
            )
            await asyncio.sleep(wait_s)

    async def _watching(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless a child is given up first: then its error."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, *self._keepers.values()], return_when=asyncio.FIRST_COMPLETED)
            for keeper in self._keepers.values():
                if keeper.done():
                    keeper.result()  # a keeper that is done has raised
            return task.result()
        finally:
            task.cancel()

    # --- beginning and end ------------------------------------------------------------------------------------

    async def _look_at(self, url: str) -> None:
        """Raises Unavailable where a Redis of one's own can't be used."""
        keys.share(address.parse(url).name)
        if why := await asyncio.to_thread(queue.trouble, url):
            raise Unavailable(f"can't reach Redis at {address.public(url)}: {why}")

    async def _queue_answers(self, url: str) -> None:
        began, told = time.monotonic(), False
        while why := await asyncio.to_thread(queue.trouble, url):
            waited = time.monotonic() - began
            if waited > SLOW_LOAD_S:
                raise Unavailable(f"the embedded queue does not answer after {waited:.0f} s: {why}")
            if waited > SLOW_START_S and not told:
                self._say(f"still waiting for the embedded queue: {why}")
                told = True
            await asyncio.sleep(LOOK_S)

    async def _healthy(self, address: tuple[Any, ...]) -> str:
        """Waits for /healthz to be 200; returns which sandboxes the invoker makes."""
        began, told = time.monotonic(), False
        while True:
            status, document = await health.ask(address, "/healthz", self._api_key)
            if status == 200:
                return health.sandbox(await health.ask(address, "/v1/status", self._api_key))
            if time.monotonic() - began > SLOW_START_S and not told:
                self._say(f"still starting: {health.reason(status, document)}")
                told = True
            await asyncio.sleep(LOOK_S)

    async def _until_signal(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` until SIGINT, SIGTERM or SIGHUP; a second signal kills what does not end by itself."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                for child in self._running.values():
                    child.kill()
            else:
                self._say(
                    f"stopping: calls that run have {endings.GATEWAY_CALLS_S:g} s to end; once more ends all at once"
                )
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, on_signal)
        task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])

    async def _end(self) -> None:
        resting = [keeper for name, keeper in self._keepers.items() if name not in self._running]
        for keeper in resting:  # it would start its child again, in the middle of the end
            keeper.cancel()
        await asyncio.gather(*resting, return_exceptions=True)
        gateways = [name for name in self._running if name.startswith(("gateway", "ledger"))]
        for names, within_s in (
            (gateways, endings.GATEWAY_S),
            (["invoker", "builder"], endings.WORKER_S),
            (["valkey"], endings.QUEUE_S),
        ):
            await asyncio.gather(*(self._end_one(name, within_s) for name in names if name in self._running))
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)

    async def _end_one(self, name: str, within_s: float) -> None:
        if not await self._running[name].end(within_s):
            self._say(f"the {name} did not end within {within_s:g} s and was killed")


def _block(words: str) -> str:
    lines = words.splitlines()
    return f" {lines[0]}" if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
