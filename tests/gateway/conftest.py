"""A real gateway over a real queue, served on a free port; only the invoker is a fake."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.__main__ import Config, Gateway, listen, server
from tests.gateway.fake_invoker import FakeInvoker, Work, builder_beat, running


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that answers at `port`."""

    gateway: Gateway
    http: httpx.AsyncClient
    port: int


def config(
    redis_url: str,
    data: Path,
    api_key: str | None = None,
    name: str = "gw-1",
    allow_hosts: tuple[str, ...] = (),
    keys: Path | None = None,
) -> Config:
    book = f"sqlite:///{data}/ledger.sqlite3"
    return Config(
        redis=redis_url,
        data=data,
        fd=None,
        host="127.0.0.1",
        port=0,
        name=name,
        ledger=book,
        prices=None,
        api_key=api_key,
        allow_hosts=allow_hosts,
        keys=keys,
    )


@contextlib.asynccontextmanager
async def serving(
    redis_url: str,
    data: Path,
    api_key: str | None = None,
    name: str = "gw-1",
    allow_hosts: tuple[str, ...] = (),
    keys: Path | None = None,
) -> AsyncIterator[Served]:
    settings = config(redis_url, data, api_key, name, allow_hosts, keys)
    listener = listen(settings)
    port = listener.getsockname()[1]
    gateway = await Gateway.open(settings)
    uvicorn = server(gateway.app)
    task = asyncio.create_task(uvicorn.serve(sockets=[listener]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as http:
            while not uvicorn.started:
                assert not task.done(), task.result()
                await asyncio.sleep(0.005)
            yield Served(gateway, http, port)
    finally:
        gateway.following.stop()
        uvicorn.should_exit = True
        await task


@pytest.fixture
async def served(redis_url: str, data_dir: Path) -> AsyncIterator[Served]:
    await builder_beat(redis_url)
    async with serving(redis_url, data_dir) as found:
        yield found


Invokers = Callable[..., contextlib.AbstractAsyncContextManager[FakeInvoker]]


@pytest.fixture
def invoker(redis_url: str, served: Served) -> Invokers:
    """``async with invoker(work)``: a fake invoker that the gateway has noticed."""

    @contextlib.asynccontextmanager
    async def start(work: Work | None = None, name: str = "inv-1") -> AsyncIterator[FakeInvoker]:
        async with running(redis_url, name, work) as fake:
            await served.gateway.pulse.look()
            yield fake

    return start
