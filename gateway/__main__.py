"""``python -m gateway``: one gateway process. Reads the command line, wires the rooms by hand, serves until SIGTERM.

What is wired: Gateway below. How a call goes through it: dispatch.py. The API key comes by the environment
(JIFFY_API_KEY), because a command line can be read by everyone on the host.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
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
from gateway.app import App, control
from gateway.budgets.guard import Guard
from gateway.budgets.seed import Seed
from gateway.budgets.store import BudgetStore
from gateway.budgets.warnings import Warnings
from gateway.catalog import Catalog
from gateway.complaints import Complaints
from gateway.dispatch import Dispatcher
from gateway.durable.acceptance import Acceptance
from gateway.durable.audit_store import AuditStore
from gateway.durable.callbacks import HttpTarget, Network
from gateway.durable.cancellation import Cancellation
from gateway.durable.dead_letters import DeadLetters
from gateway.durable.deliveries import Deliveries, FunctionTarget, Target
from gateway.durable.delivery_store import DeliveryStore
from gateway.durable.later import Later
from gateway.durable.once import Once
from gateway.durable.store import DurableStore
from gateway.durable.takeover import Takeover
from gateway.durable.takeover_store import TakeoverStore
from gateway.following import Following
from gateway.keyring import Keyring
from gateway.ledger.questions import By
from gateway.loops import Loops
from gateway.metrics import Metrics
from gateway.openapi import Endpoint
from gateway.placement import Placement
from gateway.protocol import GatewayHttp
from gateway.pulse import Pulse
from gateway.rates import Rates
from gateway.routes import invoke, usage
from gateway.routes.audit import Audits
from gateway.routes.budgets import Budgets
from gateway.routes.builds import Builds
from gateway.routes.costs import Costs
from gateway.routes.dlq import Dlq
from gateway.routes.functions import Functions
from gateway.routes.health import Health
from gateway.routes.hooks import Hooks
from gateway.routes.hosts import Hosts
from gateway.routes.invocations import Invocations
from gateway.routes.live import Live
from gateway.routes.logs import Logs
from gateway.routes.prices import Prices
from gateway.routes.quotas import Quotas
from gateway.routes.sources import Sources
from gateway.routes.statements import Statements
from gateway.routes.topics import TopicRoutes
from gateway.routes.triggers import Triggers
from gateway.store import Store
from gateway.triggers.calls import Calls
from gateway.triggers.firing import Firing
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.queues import Queues, Where
from gateway.triggers.scheduler import Scheduler
from gateway.triggers.store import TriggerStore
from gateway.triggers.topic_store import TopicStore
from gateway.triggers.topics import Topics
from jiffy.contract import endings, layout
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
    callbacks_to: tuple[Network, ...] = ()  # what callbacks may reach though it is not public


def configure(arguments: Sequence[str], environment: dict[str, str]) -> Config:
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Jiffy's HTTP gateway.")
    parser.add_argument("--redis", required=True, metavar="URL", help="redis://, rediss:// or unix:// URL")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the platform's data folder")
    parser.add_argument("--fd", type=int, metavar="N", help="an inherited listening socket, in place of host and port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--name", help="unique among the gateways of one Redis (default: made up)")
    parser.add_argument("--ledger", metavar="URL", help="database of the ledger (default: SQLite in the data folder)")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="price books to publish (TOML)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="API keys of tenants (TOML)")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="answer to it without a key")
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
        callbacks_to=tuple(given.callbacks_to),
    )


class Gateway:
    """All parts of one gateway, wired. Make it with `open`, inside a running loop."""

    def __init__(self, config: Config, store: Store, ledger: books.Ledger, keyring: Keyring | None) -> None:
        self.store, self.ledger = store, ledger
        self.following = Following()
        self.placement, self.admission, metrics = Placement(), Admission(), Metrics()
        self.catalog = Catalog(store)
        self.pulse = Pulse(store, self.placement, store.now_ms)
        self.dispatcher = Dispatcher(store, config.name)
        budgets = BudgetStore(store.client)
        self.guard = Guard(budgets, lambda: ledger.price_list.at(store.now_ms()), store.now_ms)
        self.warnings = Warnings(budgets, lambda: ledger.price_list.currency, store.now_ms)
        self.guard.hear = self.warnings.hear
        seed = Seed(budgets, ledger, store.now_ms)
        durable = self.durable = DurableStore(store.client)
        self.acceptance = Acceptance(durable, self.placement, self.guard, store.now_ms)
        self.later = Later(durable, self.placement, self.guard, store.now_ms)
        once = Once(self.acceptance, self.dispatcher, self.placement, store, self.guard)
        self.takeover = Takeover(TakeoverStore(store.client), self.placement, self.dispatcher.abandon)
        told_of = DeliveryStore(store.client)
        dead_letters = DeadLetters(durable, told_of, self.catalog, store.now_ms)
        self.callbacks = HttpTarget(told_of, store.now_ms, config.callbacks_to)
        called = FunctionTarget(self.catalog, self.acceptance)
        targets: dict[str, Target] = {"function": called, "http": self.callbacks, "https": self.callbacks}
        self.deliveries = Deliveries(told_of, targets, store.now_ms)
        self.triggers, told = TriggerStore(config.redis), TriggerMetrics()
        calls = Calls(self.placement, self.guard)
        firing = Firing(self.triggers, self.acceptance, told, store.now_ms)
        self.scheduler = Scheduler(self.catalog, self.triggers, calls, told, store.now_ms)
        self.catalog.on_change.append(self.scheduler.changed)
        caller = invoke.Invoke(
            *(self.catalog, self.placement, self.dispatcher, self.admission, metrics),
            *(self.acceptance, once, Complaints(store, store.now_ms), self.guard, store.now_ms),
        )
        topic_store = TopicStore(store.client)
        topics = Topics(topic_store, store.now_ms)
        where = Where(config.name, config.redis)
        self.queues = Queues(self.catalog, self.triggers, caller.call, topics, told, where, store.now_ms)
        self.catalog.on_change.append(self.queues.changed)
        health = Health(store, self.pulse, self.catalog, self.dispatcher, metrics, told, version("jiffy"))
        self.endpoints: tuple[Endpoint, ...] = (
            *invoke.ENDPOINTS,
            *Functions(store, self.catalog, self.pulse).endpoints(),
            *Live(store, self.catalog).endpoints(),
            *Logs(store, self.catalog, self.following).endpoints(),
            *Sources(store, self.admission).endpoints(),
            *Builds(store, self.following).endpoints(),
            *Hooks(self.catalog, self.admission, self.acceptance, self.triggers, told, store.now_ms).endpoints(),
            *TopicRoutes(self.catalog, topics, topic_store, store.now_ms).endpoints(),
            *Triggers(self.catalog, self.triggers, firing, store.now_ms).endpoints(),
            *Invocations(store, ledger, Cancellation(store, durable, self.guard)).endpoints(),
            *Dlq(dead_letters, told_of).endpoints(),
            *Audits(AuditStore(store.client), ledger).endpoints(),
            *Prices(ledger).endpoints(),
            *Hosts(store, self.pulse).endpoints(),
            *Statements(ledger).endpoints(),
            *Costs(ledger, self.catalog).endpoints(),
            *Budgets(budgets, self.guard, seed, lambda: ledger.price_list.currency, store.now_ms).endpoints(),
            *Quotas(budgets, self.guard, store.now_ms).endpoints(),
            *health.endpoints(),
        )
        health.describe((*self.endpoints, USAGE))
        self.app = App(
            invoke=caller,
            rates=Rates(store.client, metrics.count),
            catalog=self.catalog,
            control=control(self.endpoints, usage.routes(ledger)),
            open_paths=[endpoint.path for endpoint in self.endpoints if endpoint.open],
            keys=keyring,
            allow_hosts=config.allow_hosts,
            start=self.start,
            stop=self.stop,
        )
        self.loops = Loops(
            *(*self.dispatcher.loops(), *self.acceptance.loops(), *self.guard.loops()),
            *(
                self.later.watch,
                self.takeover.watch,
                seed.watch,
                self.deliveries.watch,
                self.pulse.watch,
                self.catalog.watch,
                self.scheduler.watch,
                self.queues.watch,
            ),
            *([keyring.watch] if keyring else []),
        )

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
        await self.guard.look()
        self.ledger.tell_tariff(self.placement.set_tariff)
        self.ledger.follow()
        self.loops.start()

    async def stop(self) -> None:
        self.following.stop()
        await self.loops.stop()
        self.guard.give_up()
        self.dispatcher.give_up()
        await self.warnings.close()
        await self.ledger.close()
        await self.callbacks.close()
        with contextlib.suppress(JiffyError):
            await self.durable.close()
        with contextlib.suppress(JiffyError):
            await self.triggers.close()
        with contextlib.suppress(JiffyError):
            await self.store.close()


USAGE = Endpoint(
    *("GET", "/v1/usage", None, "What calls cost, one by one or added up."),
    query={
        "by": f"{', '.join(By)}; tag:NAME for the values of one tag",
        "function": "only this function",
        "order": "time (the default), or price: the dearest calls first",
        "since": "a day, an ISO time, or a time ago such as 24h",
        "until": "likewise",
        "month": "what stands on the bill of a month such as 2026-11, in place of since and until",
        "limit": "rows of a page",
        "after": "`next` of the page before",
        "format": "json (the default), or all rows, streamed: csv, jsonl",
    },
    errors=("400", "503"),
)


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
        loop.call_later(
            endings.GATEWAY_CALLS_S - 0.5, gateway.dispatcher.give_up
        )  # an answer is better than a closed connection

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
    os.umask(0o077)  # the ledger is nobody else's
    config = configure(sys.argv[1:], dict(os.environ))
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
