"""``python -m gateway``: one gateway process. Reads the command line, wires the rooms by hand, serves until SIGTERM.

What is wired: Gateway below. How a call goes through it: dispatch.py. The API key comes by the environment
(JIFFY_API_KEY), because a command line can be read by everyone on the host; Redis' and the ledger's URLs may
(JIFFY_REDIS, JIFFY_LEDGER).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import uvicorn
import uvloop

from gateway import ledger as books
from gateway.admission import Admission
from gateway.aliases import Aliases
from gateway.app import App, control
from gateway.budgets.room import BudgetRoom
from gateway.catalog import Catalog
from gateway.complaints import Complaints
from gateway.dispatch import Dispatcher
from gateway.durable.callbacks import Network
from gateway.durable.room import DurableRoom
from gateway.following import Following
from gateway.keyring import Keyring
from gateway.loops import Loops
from gateway.metrics import Metrics
from gateway.openapi import Endpoint
from gateway.placement import Placement
from gateway.protocol import GatewayHttp
from gateway.pulse import Pulse
from gateway.rates import Rates
from gateway.routes import direct, invoke
from gateway.routes.aliases import AliasRoutes
from gateway.routes.builds import Builds
from gateway.routes.costs import Costs
from gateway.routes.functions import Functions
from gateway.routes.health import Health
from gateway.routes.hosts import Hosts
from gateway.routes.live import Live
from gateway.routes.logs import Logs
from gateway.routes.prices import Prices
from gateway.routes.sources import Sources
from gateway.routes.statements import Statements
from gateway.routes.streamed import Streamed
from gateway.routes.usage import UsageRoute
from gateway.store import Store
from gateway.streams import Streams
from gateway.triggers.queues import Where
from gateway.triggers.room import TriggerRoom
from jiffy.contract import address, endings, keys, layout
from jiffy.contract.errors import JiffyError

BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than usual clients keep an idle connection, so that they close first


@dataclass(frozen=True, slots=True)
class Config:
    """All that can be set."""

    redis: str
    data: Path
    fd: int | None
    host: str
    port: int
    name: str
    ledger: str
    prices: Path | None  # None: those that the ledger has, or at first those that are shipped
    api_key: str | None
    keys: Path | None = None  # API keys of tenants
    allow_hosts: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()  # folders that triggers may watch
    callbacks_to: tuple[Network, ...] = ()  # what callbacks may reach though it is not public


def configure(arguments: Sequence[str], environment: dict[str, str]) -> Config:
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Jiffy's HTTP gateway.")
    redis, book = environment.get("JIFFY_REDIS"), environment.get("JIFFY_LEDGER")
    parser.add_argument(
        *("--redis",), default=redis, required=not redis, metavar="URL", help="the queue; default: JIFFY_REDIS"
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the platform's data folder")
    parser.add_argument("--fd", type=int, metavar="N", help="an inherited listening socket, in place of host and port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--name", help="unique among the gateways of one Redis (default: made up)")
    parser.add_argument(
        *("--ledger",),
        default=book,
        metavar="URL",
        help="its database; default: JIFFY_LEDGER, or SQLite in the data folder",
    )
    parser.add_argument("--prices", type=Path, metavar="FILE", help="price books to publish (TOML)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="API keys of tenants (TOML)")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="answer to it without a key")
    parser.add_argument(
        "--files", action="append", default=[], type=Path, metavar="DIR", help="triggers may watch what is in it"
    )
    parser.add_argument(
        *("--callbacks-to",),
        action="append",
        default=[],
        type=ipaddress.ip_network,
        metavar="NETWORK",
        help="functions' callbacks may reach it though it is not public",
    )
    given = parser.parse_args(arguments)
    return Config(
        redis=given.redis,
        data=given.data,
        fd=given.fd,
        host=given.host,
        port=given.port,
        name=given.name or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        ledger=given.ledger or layout.ledger_url(given.data),
        prices=given.prices,
        api_key=environment.get("JIFFY_API_KEY") or None,
        keys=given.keys,
        allow_hosts=tuple(given.allow_host),
        files=tuple(given.files),
        callbacks_to=tuple(given.callbacks_to),
    )


class Gateway:
    """All parts of one gateway, wired; rooms wire themselves. Make it with `open`, inside a running loop."""

    def __init__(self, config: Config, store: Store, ledger: books.Ledger, keyring: Keyring | None) -> None:
        self.store, self.ledger = store, ledger
        self.following = Following()
        self.placement, self.admission, self._metrics = Placement(), Admission(), Metrics()
        self.catalog = Catalog(store)
        self.pulse = Pulse(store, self.placement, store.now_ms)
        self.streams = Streams(store.client, self.admission)
        # A process is another gateway than the one before it: what that was to be answered is not for this one.
        self.dispatcher = Dispatcher(store, f"{config.name}.{secrets.token_hex(4)}", self.streams.arrived)
        self.budgets = BudgetRoom(store, ledger, self.catalog)
        guard = self.budgets.guard
        self.durable = DurableRoom(
            *(store, self.catalog, self.placement, self.dispatcher, guard, config.callbacks_to),
        )
        complain = Complaints(store, store.now_ms)
        streamed = Streamed(self.streams, complain)
        caller = invoke.Invoke(
            *(self.placement, self.dispatcher, self.admission, self._metrics, self.durable.once),
            *(complain, streamed, guard, store.now_ms),
        )
        calls = direct.Direct(
            *(caller, self.durable.acceptance, streamed, self.catalog, self.admission, self._metrics),
            *(guard, store.now_ms),
        )
        self.triggers = TriggerRoom(
            *(Where(config.name, config.redis, config.files), store, self.catalog, self.placement, guard),
            *(caller, self.durable.acceptance),
        )
        self.endpoints = self._endpoints()
        self.app = App(
            invoke=caller,
            direct=calls,
            rates=Rates(store.client, self._metrics.count),
            catalog=self.catalog,
            control=control(self.endpoints),
            open_paths=[endpoint.path for endpoint in self.endpoints if endpoint.open],
            keys=keyring,
            allow_hosts=config.allow_hosts,
            start=self.start,
            stop=self.stop,
        )
        self.loops = Loops(
            *(*self.dispatcher.loops(), *self.streams.loops(), self.pulse.watch, self.catalog.watch),
            *(*self.budgets.loops(), *self.durable.loops(), *self.triggers.loops()),
            *([keyring.watch] if keyring else []),
        )

    def _endpoints(self) -> tuple[Endpoint, ...]:
        store, ledger, catalog = self.store, self.ledger, self.catalog
        health = Health(
            *(store, self.pulse, catalog, self.dispatcher, self._metrics),
            *(self.triggers.metrics, self.durable, version("jiffy")),
        )
        endpoints = (
            *invoke.ENDPOINTS,
            *direct.ENDPOINTS,
            *Functions(store, catalog, self.pulse, self.triggers.doors).endpoints(),
            *Live(store, catalog).endpoints(),
            *AliasRoutes(Aliases(store.client), catalog).endpoints(),
            *Logs(store, catalog, self.following).endpoints(),
            *Sources(store, self.admission).endpoints(),
            *Builds(store, self.following).endpoints(),
            *Hosts(store, self.pulse).endpoints(),
            *self.durable.endpoints(ledger),
            *self.triggers.endpoints(self.admission),
            *self.budgets.endpoints(),
            *UsageRoute(ledger).endpoints(),
            *Prices(ledger).endpoints(),
            *Statements(ledger).endpoints(),
            *Costs(ledger, catalog).endpoints(),
            *health.endpoints(),
        )
        health.describe(endpoints)
        return endpoints

    @classmethod
    async def open(cls, config: Config) -> Gateway:
        """Raises Unavailable when Redis or the ledger's database can't be reached, SpecError or Conflict for prices,
        SpecError for keys.
        """
        given = books.read_prices(config.prices) if config.prices else None
        keyring = Keyring(config.api_key, config.keys) if config.api_key or config.keys else None
        store = Store(config.redis)
        try:
            await store.ping()
            ledger = await books.open_ledger(config.ledger, config.redis, store.now_ms, given)
        except JiffyError:
            await store.close()
            raise
        return cls(config, store, ledger, keyring)

    async def start(self) -> None:
        await self.pulse.look()
        await self.catalog.resync()
        await self.budgets.guard.look()
        self.ledger.tell_tariff(self.placement.set_tariff)
        self.ledger.follow()
        self.loops.start()

    async def stop(self) -> None:
        self.following.stop()
        await self.loops.stop()
        self.dispatcher.give_up()
        await self.budgets.close()
        await self.ledger.close()
        await self.durable.close()
        await self.triggers.close()
        with contextlib.suppress(JiffyError):
            await self.store.close()


class Server(uvicorn.Server):
    """uvicorn, with the signals left to us: it would end the process by the signal instead of with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(config: Config) -> socket.socket:
    """The listening socket. Raises OSError."""
    if config.fd is not None:
        listener = socket.socket(fileno=config.fd)
    else:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def guarded(listener: socket.socket, config: Config) -> bool:
    """Is it safe to serve here: on loopback, or with a key?"""
    address = listener.getsockname()
    keyed = config.api_key is not None or config.keys is not None
    return keyed or isinstance(address, str) or ipaddress.ip_address(address[0]).is_loopback


def server(app: App) -> Server:
    return Server(
        uvicorn.Config(
            app,
            http=GatewayHttp,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            log_level=logging.ERROR,  # a warning per malformed request would let anyone fill the disk
            access_log=False,
            proxy_headers=False,  # whom they may be believed: jiffy.contract.httpevent
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(endings.GATEWAY_CALLS_S),
        )
    )


async def serve(config: Config, listener: socket.socket) -> int:
    """Serve until a signal. Returns the exit code."""
    gateway = await Gateway.open(config)
    running = server(gateway.app)
    loop = asyncio.get_running_loop()

    def end() -> None:
        gateway.following.stop()
        running.should_exit = True
        # An answer is better than a closed connection.
        loop.call_later(endings.GATEWAY_CALLS_S - 0.5, gateway.dispatcher.give_up)

    async def watch() -> None:
        await gateway.loops.failed.wait()
        end()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    watching = loop.create_task(watch())
    gc.collect()
    gc.freeze()  # what is loaded by now stays: the collector need not walk it again
    await running.serve(sockets=[listener])
    watching.cancel()
    return 1 if gateway.loops.failed.is_set() or not running.started else 0


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config = configure(sys.argv[1:], dict(os.environ))
    try:
        keys.share(address.parse(config.redis).name)
    except JiffyError as exc:
        print(f"gateway: {exc.message}", file=sys.stderr)
        return 1
    try:
        listener = listen(config)
    except OSError as exc:
        where = f"socket {config.fd}" if config.fd is not None else f"{config.host}:{config.port}"
        print(f"gateway: can't listen on {where}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    if not guarded(listener, config):
        print("gateway: refusing to serve beyond loopback without an API key: set JIFFY_API_KEY", file=sys.stderr)
        return 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(config, listener))
    except JiffyError as exc:
        print(f"gateway: {exc.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
