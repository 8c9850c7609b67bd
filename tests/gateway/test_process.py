"""``python -m gateway`` as its supervisor sees it: sockets, signals, exit codes, clear lines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.fake_invoker import publish, running

pytestmark = pytest.mark.redis


@contextlib.asynccontextmanager
async def process(*arguments: str, fds: tuple[int, ...] = (), **environment: str) -> AsyncIterator[Process]:
    """One gateway process, ended with the block."""
    env = {k: v for k, v in os.environ.items() if k != "JIFFY_API_KEY"} | environment
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        stderr=asyncio.subprocess.PIPE,
        env=env,
        pass_fds=fds,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


async def refusal(*arguments: str, **environment: str) -> str:
    """What a gateway says that does not start: one line, exit code 1."""
    async with process(*arguments, **environment) as started:
        _, errors = await asyncio.wait_for(started.communicate(), 20)
        assert started.returncode == 1, errors
        lines = errors.decode().splitlines()
        assert len(lines) == 1, errors
        return lines[0]


async def test_it_serves_an_inherited_socket_and_finishes_running_calls_at_sigterm(
    redis_url: str, data_dir: Path
) -> None:
    await publish(redis_url)
    with listening() as (listener, url):
        where = ("--fd", str(listener.fileno()), "--redis", redis_url, "--data", str(data_dir))
        async with (
            process(*where, fds=(listener.fileno(),)) as started,
            running(redis_url, work=lambda call: None) as fake,
            httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http,
        ):
            waiting = asyncio.create_task(_until_taken(http))
            await asyncio.wait_for(fake.seen.wait(), 20)
            listener.close()
            started.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while await _accepts(url):
                    await asyncio.sleep(0.02)
            fake.work = lambda call: {"payload": b'"finished"'}
            await fake.answer_again()
            assert (await waiting).json() == "finished"
            assert await asyncio.wait_for(started.wait(), 10) == 0
            assert started.stderr is not None
            assert await started.stderr.read() == b""


async def test_a_call_that_does_not_end_does_not_hold_the_gateway(redis_url: str, data_dir: Path) -> None:
    await publish(redis_url, timeout_ms=900_000)
    with listening() as (listener, url):
        where = ("--fd", str(listener.fileno()), "--redis", redis_url, "--data", str(data_dir))
        async with (
            process(*where, fds=(listener.fileno(),)) as started,
            running(redis_url, work=lambda call: None) as fake,
            httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http,
        ):
            waiting = asyncio.create_task(_until_taken(http))
            await asyncio.wait_for(fake.seen.wait(), 20)
            started.send_signal(signal.SIGTERM)
            told = await waiting
            assert told.status_code == 502
            assert "retry-after" not in told.headers  # it may have run, and who obeyed would run it twice
            assert told.headers["jiffy-invocation-id"] in told.json()["error"]["message"]
            assert await asyncio.wait_for(started.wait(), 10) == 0


async def test_beyond_loopback_it_wants_a_key(redis_url: str, data_dir: Path) -> None:
    arguments = ("--redis", redis_url, "--data", str(data_dir), "--host", "0.0.0.0", "--port", "0")
    assert "JIFFY_API_KEY" in await refusal(*arguments)


async def test_what_is_missing_is_told_in_one_line(redis_url: str, data_dir: Path, tmp_path: Path) -> None:
    data = ("--data", str(data_dir))
    nowhere = f"unix://{tmp_path}/no.sock"
    assert "queue" in await refusal("--redis", nowhere, *data, "--port", "0")
    with listening() as (_, url):
        port = url.rpartition(":")[2]
        assert f"127.0.0.1:{port}" in await refusal("--redis", redis_url, *data, "--port", port)
    assert "SERVICE" in await refusal("--redis", "redis+sentinel://a,b", *data, "--port", "0")
    assert "ledger" in await refusal("--redis", redis_url, "--data", f"{tmp_path}/none/there", "--port", "0")


async def _until_taken(http: httpx.AsyncClient) -> httpx.Response:
    """Call until the gateway is up and knows an invoker."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            answered = await http.get("/function/hello")
            if answered.status_code != 503 or "invoker" not in answered.text:
                return answered
        await asyncio.sleep(0.05)


async def _accepts(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
