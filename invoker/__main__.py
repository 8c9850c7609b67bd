"""`python -m invoker`: reads the command line, wires everything by hand, runs until SIGTERM, and leaves nothing.

Begin reading at `serve`. The story of a call is in execute.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from jiffy import primary
from jiffy.contract import address, endings, keys, limits
from jiffy.contract.clock import Clock
from jiffy.contract.errors import JiffyError, PlatformError
from jiffy.contract.messages import Layer, Revision
from jiffy.contract.registry import Shelf

from . import host, policy
from .drivers import choose
from .drivers.base import Driver, DriverConfig, Wish
from .execute import Executor
from .handover import Handover
from .heartbeat import Pulse
from .keepalive import DEFAULT, POLICIES
from .layers import Layers
from .pool import Pool
from .program import Program, runs
from .provisioning import Provisioning
from .room import Room
from .sandbox import Sandbox
from .stems import Kind, Stems
from .store import Store

log = logging.getLogger("invoker")

LINGER_S = 2 * limits.HEARTBEAT_S  # gateways that have not yet heard that we leave still send calls: they are handed on
CANCEL_AGAIN_S = 0.5  # before Python 3.12, asyncio.wait_for (in redis-py) may swallow a cancellation


@dataclass(frozen=True, slots=True)
class Config:
    """The command line."""

    redis: str
    data: Path
    sandbox: str
    id: str | None
    stems: int
    keep_alive_s: float
    keep_alive: str
    warm_mb: int
    instances: int
    tenant_instances: int
    runtime_option: str
    registry: str


def parse(argv: Sequence[str]) -> Config:
    parser = argparse.ArgumentParser(prog="python -m invoker", description="Runs functions in microcontainers.")
    redis = os.environ.get("JIFFY_REDIS")  # a command line can be read by everyone on the host
    parser.add_argument(
        *("--redis",), default=redis, required=not redis, metavar="URL", help="the queue; default: JIFFY_REDIS"
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the platform's data folder")
    parser.add_argument("--sandbox", choices=("auto", "docker", "bwrap"), default="auto", help="default: %(default)s")
    parser.add_argument("--id", help="this invoker's name; default: kept in DIR/invoker-id")
    parser.add_argument("--stems", type=int, default=2, metavar="N", help="stems kept ready; default: %(default)s")
    parser.add_argument(
        "--keep-alive-s", type=float, default=60.0, metavar="S", help="idle instances end after; default: %(default)g"
    )
    parser.add_argument(
        "--keep-alive",
        choices=tuple(POLICIES),
        default=DEFAULT,
        help="who of those asleep goes; default: %(default)s",
    )
    parser.add_argument(
        "--warm-mb", type=int, default=0, metavar="MB", help="what sleeping sandboxes may take; default: a quarter"
    )
    parser.add_argument(
        "--instances", type=int, default=0, metavar="N", help="how many may run at a time; default: what files allow"
    )
    parser.add_argument(
        "--tenant-instances",
        type=int,
        default=0,
        metavar="N",
        help="how many of them one tenant may have; default: all",
    )
    parser.add_argument(
        "--runtime-option", default="", metavar="NAME", help="an OCI runtime of Docker's, such as runsc"
    )
    parser.add_argument(
        "--registry",
        default="",
        metavar="HOST/PREFIX",
        help="pull layers that DIR lacks from here, as builders push them",
    )
    return Config(**vars(parser.parse_args(argv)))


def main() -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        config = parse(sys.argv[1:])
        keys.share(address.parse(config.redis).name)
        return uvloop.run(serve(config))
    except JiffyError as exc:
        print(f"invoker: {exc.message}", file=sys.stderr)
        return 1


async def serve(config: Config) -> int:
    """Everything, from the first connection to the last. Raises PlatformError when a part does not work."""
    stop = _on_signals()
    invoker = host.invoker_id(config.data, config.id)
    with host.alone(config.data, invoker):
        return await _serve(config, invoker, stop)


async def _serve(config: Config, invoker: str, stop: asyncio.Event) -> int:
    clock = Clock()
    store = Store(config.redis, invoker, clock, host.holder(config.data))
    try:
        await store.open()
        off_limits = await primary.places(config.redis)
        driver = await choose(
            config.sandbox, DriverConfig(config.data, store.invoker, config.runtime_option, off_limits=off_limits)
        )
        try:
            await _work(config, store, driver, clock, stop)
        finally:
            await driver.close()
    finally:
        await store.close()
    return 0


async def _work(config: Config, store: Store, driver: Driver, clock: Clock, stop: asyncio.Event) -> None:
    layers = _layers(config, store.invoker)
    stems = Stems(partial(_start, driver, layers, config.data), config.stems, clock.monotonic_us)
    keep = policy.Keep(instance_us=int(config.keep_alive_s * 1e6))
    most = host.instances_max()
    room = Room(min(config.instances or most, most), config.tenant_instances)
    kept = POLICIES[config.keep_alive]()
    warm_mb = config.warm_mb
    pool = Pool(stems, clock.monotonic_us, host.memory, room, keep=keep, keepalive=kept, warm_mb=warm_mb, layers=layers)
    executor = Executor(store.invoker, store, pool, clock, Handover(store, store.invoker, clock))
    places = host.layer_store(config.data), layers.registry
    who = store.invoker, host.name(), driver.name, driver.network, *places
    pulse = Pulse(store, clock, pool, stems, who, executor.drain, executor.renew)
    await pulse.send()  # nothing begins before gateways have heard of us
    bases = (store.watch_bases(place, partial(_expect, stems)) for place in places if place)
    news = store.watch(partial(_serve_live, pool, places)), *bases
    calls = asyncio.create_task(executor.run())
    provisioning = Provisioning(store, store.invoker, clock, pool.kept)
    loops = pulse.run(), pool.run(), provisioning.count(), provisioning.write(), *news, _wait_for(stop)
    others = [asyncio.create_task(work) for work in loops]
    try:
        await asyncio.wait((calls, *others), return_when=asyncio.FIRST_COMPLETED)
        await _finish(executor, pool, layers, pulse, provisioning, calls)
    except BaseException:
        layers.close()
        await _within(endings.INVOKER_SANDBOXES_S, pool.close())
        raise
    finally:
        await _cancel(calls, *others)
        results = await asyncio.gather(calls, *others, return_exceptions=True)
    with contextlib.suppress(PlatformError):  # where Redis is gone, our heartbeat ages by itself
        await store.leave()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


async def _finish(
    executor: Executor, pool: Pool, layers: Layers, pulse: Pulse, provisioning: Provisioning, calls: asyncio.Task[None]
) -> None:
    """Read no more, let running calls end, then end the others; write down what became of each."""
    log.info("stopping")
    await _within(endings.INVOKER_HAND_OVER_S, _hand_over(executor, pulse))
    pool.drain()
    layers.close()
    await _within(endings.INVOKER_TELL_S, _tell(executor, pulse))
    await _within(endings.INVOKER_CALLS_S, executor.settled())
    await _within(endings.INVOKER_SANDBOXES_S, _end_instances(pool, provisioning))
    await asyncio.wait((calls,), timeout=endings.INVOKER_WORDS_S)


async def _hand_over(executor: Executor, pulse: Pulse) -> None:
    if await executor.hand_over():
        await pulse.send()
        await asyncio.sleep(LINGER_S)


async def _tell(executor: Executor, pulse: Pulse) -> None:
    await executor.stop()
    await pulse.send()


async def _end_instances(pool: Pool, provisioning: Provisioning) -> None:
    await asyncio.gather(provisioning.finish(), pool.close())


async def _within(budget_s: float, work: Awaitable[None]) -> None:
    """A queue or an engine that hangs must not take the time of what comes after it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(budget_s):
            await work


def _layers(config: Config, invoker: str) -> Layers:
    """The HTTP client behind a registry is loaded where there is one."""
    shelf = Shelf.parse(config.registry) if config.registry else None
    registry = importlib.import_module("invoker.registry").Registry(shelf) if shelf else None
    return Layers(config.data, invoker, registry)


def _serve_live(pool: Pool, places: tuple[str, str], tenant: str, function: str, revision: Revision | None) -> None:
    """What lies in another layer store is not run here, so nothing is kept ready for it."""
    ours = revision is not None and revision.store in ("", *places)
    pool.set_live(tenant, function, revision if ours else None)


def _expect(stems: Stems, runtime: str, base: Layer) -> None:
    """Functions with this base layer are to come: the very first call finds a stem."""
    stems.want(Kind(runtime, base, False))


async def _start(
    driver: Driver, layers: Layers, data: Path, kind: Kind, *, tenant: str, awaited: bool
) -> Sandbox | Program:
    await layers.ready((kind.base,))
    what: type[Sandbox | Program] = Program if runs(kind.runtime) else Sandbox
    wish = Wish(network=kind.network, tenant=tenant, awaited=awaited)
    return await what.start(driver, data, kind.runtime, kind.base, wish)


async def _wait_for(stop: asyncio.Event) -> None:
    await stop.wait()


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


if __name__ == "__main__":
    sys.exit(main())
