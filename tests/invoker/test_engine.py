"""An engine that loses containers, hangs, stops and comes back: clear outcomes, and no restart of ours."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import docker
import pytest

from invoker import host as this_host
from invoker.drivers import DriverConfig, choose
from invoker.drivers.base import Wish
from invoker.lease import Slot
from invoker.pool import Pool
from invoker.refusal import Refusal
from invoker.room import Room
from invoker.sandbox import Reply, Sandbox
from invoker.stems import Kind, Stems
from jiffy.contract.clock import Clock
from jiffy.contract.messages import Layer, Outcome, Revision
from tests import engines
from tests.conftest import need

from .lab import Lab

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # docker's own, where nobody answers it
]
CODE = "def handler(event, context): return 'served'"


class Call:
    """A call on its way through the pool: `outcome` is done when it has ended."""

    def __init__(self, clock: Clock, wait_s: float) -> None:
        self.entry = b"1"
        self.arrived_us = clock.monotonic_us()
        self.latest_start_us = self.arrived_us + int(wait_s * 1e6)
        self.size, self.cold, self.init_us, self.init_log = 1, False, 0, b""
        self.outcome: asyncio.Future[Reply | Refusal] = asyncio.get_running_loop().create_future()
        self._clock = clock

    def start(self, slot: Slot, now_us: int) -> None:
        future = slot.instance.call({"id": "x"}, b"{}", 5.0)
        future.add_done_callback(partial(self._ended, slot))

    def _ended(self, slot: Slot, future: asyncio.Future[object]) -> None:
        result = future.result()
        if isinstance(result, Reply):
            slot.pool.release(slot, self._clock.monotonic_us(), result.duration_us)
            self.outcome.set_result(result)
        else:
            slot.pool.lost(slot)
            self.outcome.set_result(Refusal(Outcome.CRASH, repr(result).encode()))

    def refuse(self, refusal: Refusal) -> None:
        self.outcome.set_result(refusal)


class Host:
    """The pool over real sandboxes of an engine."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.clock = lab, Clock()
        stems = Stems(self._start, 1, self.clock.monotonic_us)
        self.pool = Pool(stems, self.clock.monotonic_us, this_host.memory, Room(100))
        self.time = asyncio.ensure_future(self.pool.run())

    async def _start(self, kind: Kind, *, tenant: str, awaited: bool) -> Sandbox:
        return await Sandbox.start(self.lab.driver, self.lab.data, kind.runtime, kind.base, Wish(tenant=tenant))

    async def call(self, of: Revision, wait_s: float = 60.0) -> Reply | Refusal:
        one = Call(self.clock, wait_s)
        self.pool.lease(one, of, self.clock.monotonic_us())
        return await asyncio.wait_for(one.outcome, 90)

    async def served(self, of: Revision) -> None:
        outcome = await self.call(of)
        assert isinstance(outcome, Reply) and outcome.payload == b'"served"', outcome


@pytest.fixture(scope="module")
def engine() -> Iterator[engines.Engine]:
    need(engines.trouble())
    with engines.engine() as one:
        yield one


@pytest.fixture
async def host(
    engine: engines.Engine, platform: tuple[Path, Layer], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Host]:
    data, layer = platform
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    driver = await choose("docker", DriverConfig(data, f"engine-{os.getpid()}"))
    host = Host(Lab(driver, data, layer))
    yield host
    host.time.cancel()
    await host.pool.close()
    await driver.close()
    gc.collect()  # docker's forgotten sockets, while their warning is ignored


def remove_containers(engine: engines.Engine) -> None:
    client = docker.DockerClient(engine.url)
    for container in client.containers.list():
        container.remove(force=True)
    client.close()


async def test_containers_that_vanish_are_replaced(host: Host, engine: engines.Engine) -> None:
    hello = host.lab.revision(CODE)
    await host.served(hello)
    await asyncio.to_thread(remove_containers, engine)
    while host.pool.instances:
        await asyncio.sleep(0.005)
    await host.served(hello)


async def test_an_engine_that_hangs_stops_no_warm_call_and_is_forgiven(host: Host, engine: engines.Engine) -> None:
    hello, other = host.lab.revision(CODE), host.lab.revision(CODE, function="other")
    await host.served(hello)
    for _ in range(3):  # use up the stems
        await host.served(host.lab.revision(CODE, function=f"f{_}"))
    engine.hang()
    try:
        await host.served(hello)
        stems = [await host.call(host.lab.revision(CODE, function=f"g{n}"), wait_s=1.0) for n in range(2)]
        refused = stems[-1]
        assert isinstance(refused, Refusal) and refused.outcome is Outcome.THROTTLED
        assert b"did not start in time" in refused.error and refused.retry_after_s > 0
    finally:
        engine.go_on()
    await host.served(other)


async def test_an_engine_that_was_stopped_and_lost_its_images_serves_again(host: Host, engine: engines.Engine) -> None:
    hello = host.lab.revision(CODE)
    await host.served(hello)
    await asyncio.to_thread(engine.stop)
    refused = await host.call(hello)
    assert isinstance(refused, Refusal) and refused.outcome is Outcome.PLATFORM and b"Docker refused" in refused.error
    await asyncio.to_thread(engine.start)
    client = docker.DockerClient(engine.url)
    for image in client.images.list():
        client.images.remove(image.id, force=True)
    client.close()
    outcome = await host.call(hello)
    if isinstance(outcome, Refusal):  # the first one learns that the image is gone
        await host.served(hello)
