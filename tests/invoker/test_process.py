"""`python -m invoker` as a process: real Redis, real sandboxes, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from builder.layers import LayerStore
from jiffy.contract import keys, layout
from jiffy.contract.messages import Answer, Call, Heartbeat, Layer, Outcome, Provision, Revision
from jiffy.contract.wire import pack, unpack
from tests import servers

from .lab import Lab

pytestmark = pytest.mark.redis
END_S = 30.0
CODE = """
import time
def handler(event, context):
    print("handling", event)
    time.sleep(event.get("sleep_s", 0))
    return {"got": event}
"""


class Process:
    """One invoker, and a gateway's view of it."""

    def __init__(self, url: str, platform: tuple[Path, Layer], sandbox: str) -> None:
        self.url = url
        self.data, self.base = platform
        self.sandbox = sandbox
        self.redis = Redis.from_url(url)
        self._sent = 0

    async def start(self) -> None:
        self.process = await invoker(
            *("--redis", self.url, "--data", str(self.data), "--sandbox", self.sandbox),
            *("--stems", "1", "--id", f"test-process-{self.sandbox}"),
        )
        async with asyncio.timeout(END_S):
            while not await self.redis.hlen(keys.INVOKERS):
                assert self.process.returncode is None, (await self.process.communicate())[1].decode()
                await asyncio.sleep(0.01)  # a hash tells nobody that it was written

    @property
    def id(self) -> str:
        return (self.data / layout.INVOKER_ID).read_text().strip()

    async def heartbeat(self, when: Callable[[Heartbeat], bool]) -> Heartbeat:
        """The first one of which `when` is true."""
        async with asyncio.timeout(END_S):
            while True:
                packed: Any = await self.redis.hget(keys.INVOKERS, self.id)
                if packed and when(heartbeat := unpack(Heartbeat, packed)):
                    return heartbeat
                await asyncio.sleep(0.01)

    async def send(self, revision: Revision, payload: bytes = b"{}") -> None:
        self._sent += 1
        seconds, _ = await self.redis.time()
        now_ms = int(seconds) * 1000
        deadline_ms = now_ms + 10_000 + revision.timeout_ms
        call = Call(f"c{self._sent}", 1, "sync", "gw", now_ms, deadline_ms, "invoke", pack(revision), payload)
        await self.redis.xadd(keys.calls(self.id), {"c": pack(call)})

    async def answer(self) -> Answer:
        popped: Any = await self.redis.blpop([keys.answers("gw")], timeout=int(END_S))
        assert popped is not None, "no answer came"
        return unpack(Answer, popped[1])

    async def end(self) -> tuple[int, str]:
        """SIGTERM: its exit code and what it said."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        return await ended(self.process)


async def invoker(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "invoker", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(END_S):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def left(data: Path) -> list[Path]:
    return [path for path in (data / layout.RUN).rglob("*") if not path.is_dir()]


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "bwrap"])
async def house(request: pytest.FixtureRequest, redis_url: str, platform: tuple[Path, Layer]) -> AsyncIterator[Process]:
    house = Process(redis_url, platform, request.param)
    await house.start()
    yield house
    if house.process.returncode is None:
        await house.end()
    await house.redis.aclose()


def revision(house: Process, **changes: Any) -> Revision:
    lab = Lab(None, house.data, house.base)  # type: ignore[arg-type] - it only writes layers here
    return lab.revision(CODE, **changes)


async def test_calls_run_in_real_sandboxes_and_a_signal_leaves_nothing(house: Process) -> None:
    await house.send(revision(house), b'{"n": 1}')
    first = await house.answer()
    assert first.outcome == Outcome.OK and first.payload == b'{"got":{"n":1}}', first
    assert first.cold and 0 < first.duration_us < 3_000_000 and first.max_memory_bytes >= 0
    await house.send(revision(house), b'{"n": 2}')
    assert not (await house.answer()).cold
    beat = await house.heartbeat(lambda beat: bool(beat.functions))
    assert beat.store == LayerStore(house.data).id, "gateways send it what lies there"
    row = beat.functions[0]
    assert (row.function, row.revision) == ("hello", 7)
    code, said = await house.end()
    assert code == 0, said
    assert await house.redis.hlen(keys.INVOKERS) == 0, "it has left"
    assert left(house.data) == []


async def test_there_is_one_invoker_of_a_name_in_a_data_folder(house: Process) -> None:
    rival = await invoker("--redis", house.url, "--data", str(house.data), "--sandbox", "bwrap")
    code, said = await ended(rival)
    assert code == 1 and said.count("\n") == 1 and f"an invoker named {house.id} works in" in said
    await house.send(revision(house))
    assert (await house.answer()).outcome == Outcome.OK, "the first one is left alone"


async def test_a_frozen_function_wakes(house: Process) -> None:
    await house.send(revision(house))
    await house.answer()
    await house.heartbeat(lambda beat: any(row.frozen for row in beat.functions))
    await house.send(revision(house))
    assert (await house.answer()).outcome == Outcome.OK


async def test_a_signal_lets_a_running_call_end(house: Process) -> None:
    await house.send(revision(house), b'{"sleep_s": 1.5}')
    await house.heartbeat(lambda beat: beat.running == 1)
    code, said = await house.end()
    assert code == 0, said
    assert (await house.answer()).outcome == Outcome.OK


async def test_what_it_kept_ready_is_written_down_when_it_ends(house: Process) -> None:
    await house.send(revision(house, min_instances=1))
    await house.answer()
    first = await house.heartbeat(lambda beat: any(row.idle + row.frozen for row in beat.functions))
    await house.heartbeat(lambda beat: beat.at_ms > first.at_ms + 600)
    code, said = await house.end()
    assert code == 0, said
    entries: Any = await house.redis.xrange(keys.USAGE)
    kept = [unpack(Provision, fields[b"p"]) for _, fields in entries if b"p" in fields]
    assert kept and sum(one.provisioned_ms for one in kept) >= 250
    assert {(one.tenant, one.function, one.revision, one.invoker) for one in kept} == {("acme", "hello", 7, house.id)}


async def test_redis_that_is_gone_does_not_stop_the_clean_up(platform: tuple[Path, Layer]) -> None:
    with servers.valkey() as server:
        house = Process(server.url, platform, "bwrap")
        await house.start()
        await house.send(revision(house))
        await house.answer()
        await house.redis.aclose()
        server.kill()
        code, said = await house.end()
    assert code == 0, said
    assert left(house.data) == []


async def test_no_redis_is_one_clear_line(tmp_path: Path) -> None:
    code, said = await ended(await invoker("--redis", "unix:///nowhere/redis.sock", "--data", str(tmp_path)))
    assert code == 1
    assert said.startswith("invoker: the queue does not answer") and said.count("\n") == 1


async def test_an_unusable_data_folder_is_one_clear_line(redis_url: str) -> None:
    code, said = await ended(await invoker("--redis", redis_url, "--data", "/proc/nowhere"))
    assert code == 1
    assert said.startswith("invoker: the data folder /proc/nowhere can't be used") and said.count("\n") == 1


async def test_it_keeps_its_name(redis_url: str, tmp_path: Path) -> None:
    unreachable = ("--redis", "unix:///nowhere/redis.sock", "--data", str(tmp_path))
    await ended(await invoker(*unreachable))
    name = (tmp_path / layout.INVOKER_ID).read_text()
    await ended(await invoker(*unreachable))
    assert (tmp_path / layout.INVOKER_ID).read_text() == name and name.startswith("inv-")
