"""Builds from the queue to a published revision, over a real Redis: numbers, races, failures, restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio

from builder.build import Builder
from builder.identity import alone, builder_id
from builder.layers import LayerStore
from builder.lock import Lock
from builder.part import Tell
from builder.processes import Processes
from builder.runtimes.python.interpreter import Interpreter
from builder.store import Store
from builder.worker import Worker
from jiffy.contract import keys, layout, limits, wire
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import BuilderBeat, BuildEvent, BuildRequest, Revision
from tests.builder.archives import digest, pack, wheel

pytestmark = pytest.mark.redis
CODE = "def handler(event, context):\n    return {}\n"


class Platform:
    """What a gateway does with builds: upload, queue, follow; and one builder, to start and stop."""

    def __init__(self, url: str, data: Path, interpreters: dict[str, Interpreter], environ: dict[str, str]) -> None:
        self.url, self.data, self.redis = url, data, redis.asyncio.Redis.from_url(url)
        self._interpreters, self._environ = interpreters, environ
        self._stop, self._tasks = asyncio.Event(), list[asyncio.Task[None]]()

    def start(self, name: str = "builder-1", kind: type[Builder] = Builder) -> None:
        processes = Processes()
        builder = kind(self.data, self._interpreters, self._environ, processes)
        worker = Worker(Store(self.url, name), builder, processes, self._interpreters)
        self._tasks.append(asyncio.create_task(worker.run(self._stop)))

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self.redis.aclose()

    async def queue(self, name: str, files: dict[str, str], *, tenant: str = "default", **spec: Any) -> str:
        archive = pack(files)
        await self.redis.set(keys.source(tenant, digest(archive)), archive)
        build = str(uuid.uuid4())
        request = BuildRequest(build, tenant, name, {"handler": "app:handler"} | spec, digest(archive), 0)
        await self.redis.xadd(keys.BUILDS, {"b": wire.pack(request)})
        return build

    async def end_of(self, build: str) -> tuple[BuildEvent, list[BuildEvent]]:
        """The final event of a build, and its steps."""
        steps: list[BuildEvent] = []
        last = b"0"
        async with asyncio.timeout(90):
            while True:
                for _, entries in await self.redis.xread({keys.build("default", build): last}, block=1000):
                    for entry, fields in entries:
                        last = entry
                        event = wire.unpack(BuildEvent, fields[b"e"])
                        if event.kind != "step":
                            return event, steps
                        steps.append(event)

    async def deploy(self, name: str, files: dict[str, str], **spec: Any) -> tuple[BuildEvent, list[BuildEvent]]:
        return await self.end_of(await self.queue(name, files, **spec))

    async def live(self, name: str) -> Revision:
        number = await self.redis.hget(keys.function("default", name), "live")
        packed = await self.redis.hget(keys.function("default", name), keys.revision_field(int(number)))
        return wire.unpack(Revision, packed)


@pytest_asyncio.fixture
async def platform(
    redis_url: str, warm_data: Path, interpreters: dict[str, Interpreter], offline: Callable[[], dict[str, str]]
) -> AsyncIterator[Platform]:
    made = Platform(redis_url, warm_data, interpreters, offline())
    try:
        yield made
    finally:
        await made.stop()


async def test_a_deploy_makes_a_revision_and_announces_it(platform: Platform, python: Interpreter) -> None:
    platform.start()
    changes = platform.redis.pubsub(ignore_subscribe_messages=True)
    await changes.subscribe(keys.FUNCTIONS_CHANGED)
    event, steps = await platform.deploy(
        "hello", {"app.py": CODE}, memory_mb=256, timeout_s=1.5, env={"A": "b"}, routes=["GET /hello"]
    )
    assert (event.kind, event.revision, event.unchanged) == ("done", 1, False)
    assert [step.step for step in steps] == ["unpack", "base", "code", "image"]
    assert steps[1].cached
    revision = await platform.live("hello")
    assert (revision.number, revision.runtime, revision.memory_mb, revision.timeout_ms) == (
        1,
        python.runtime,
        256,
        1500,
    )
    assert (revision.env, revision.routes, revision.handler) == ({"A": "b"}, ("GET /hello",), "app:handler")
    assert [layer.kind for layer in revision.layers] == ["base", "code"]
    assert (layout.layer_tree(platform.data, revision.layers[1].digest) / "app.py").read_text() == CODE
    assert await platform.redis.smembers(keys.functions("default")) == {b"hello"}
    assert await platform.redis.smembers(keys.TENANTS) == {b"default"}
    message = None
    while message is None:
        message = await changes.get_message(timeout=10)
    assert message["data"] == b"default:hello"
    await changes.aclose()
    assert await platform.redis.xlen(keys.BUILDS) == 0


async def test_the_same_code_in_another_layer_store_is_a_new_revision(platform: Platform) -> None:
    platform.start()
    await platform.deploy("hello", {"app.py": CODE})
    first = await platform.live("hello")
    assert first.store == LayerStore(platform.data).id
    elsewhere = wire.pack(first._replace(store="elsewhere"))
    await platform.redis.hset(keys.function("default", "hello"), keys.revision_field(1), elsewhere)
    event, _ = await platform.deploy("hello", {"app.py": CODE})
    assert (event.revision, event.unchanged) == (2, False)
    assert (await platform.live("hello")).store == first.store


async def test_unchanged_code_makes_no_revision_and_any_change_makes_the_next(platform: Platform) -> None:
    platform.start()
    ends = [
        (await platform.deploy("hello", files, **spec))[0]
        for files, spec in [
            ({"app.py": CODE}, {}),
            ({"app.py": CODE}, {}),
            ({"app.py": CODE + "# 2\n"}, {}),
            ({"app.py": CODE + "# 2\n"}, {"memory_mb": 512}),
            ({"app.py": CODE}, {}),
        ]
    ]
    assert [(e.revision, e.unchanged) for e in ends] == [(1, False), (1, True), (2, False), (3, False), (4, False)]


async def test_an_import_that_is_nowhere_is_warned_of_and_deployed(platform: Platform) -> None:
    platform.start()
    event, steps = await platform.deploy("hello", {"app.py": f"import greeter\n{CODE}"})
    assert event.kind == "done"
    assert [step.text for step in steps if step.step == "warning"] == [
        "app imports greeter, which is neither in the standard library, nor your code, nor its dependencies"
    ]


async def test_a_change_of_code_alone_asks_no_resolver(platform: Platform, wheels: Path) -> None:
    platform.start()
    wheel(wheels, "greeter", {"greeter.py": b""})
    files = {"app.py": CODE, "requirements.txt": "greeter\n"}
    _, steps = await platform.deploy("hello", files)
    assert [s.step for s in steps if not s.cached][-3:] == ["deps", "code", "image"]
    first = await platform.live("hello")
    for path in wheels.iterdir():  # a resolver that is asked again now fails
        path.unlink()
    event, steps = await platform.deploy("hello", files | {"app.py": CODE + "# 2\n"})
    assert (event.kind, event.revision) == ("done", 2)
    assert [s.step for s in steps if s.cached] == ["base", "deps"]
    second = await platform.live("hello")
    assert second.layers[:2] == first.layers[:2]
    assert second.layers[2] != first.layers[2]
    kept = await platform.redis.hget(keys.function("default", "hello"), keys.sbom_field(2))
    bill = json.loads(zlib.decompress(kept))
    assert "pkg:pypi/greeter@1.0" in [one.get("purl") for one in bill["components"]]
    assert bill["metadata"]["component"]["version"] == second.image


async def test_a_failing_build_says_why_keeps_the_revision_and_stops_no_other(platform: Platform) -> None:
    platform.start()
    await platform.deploy("hello", {"app.py": CODE})
    builds = [
        await platform.queue("hello", {"app.py": "def handler(:\n"}),
        await platform.queue("other", {"app.py": CODE, "requirements.txt": "no-such-thing\n"}),
        await platform.queue("third", {"app.py": CODE}, runtime="python3.99"),
        await platform.queue("fourth", {"app.py": CODE}, memory_mb=1),
        await platform.queue("fine", {"app.py": CODE}),
    ]
    ends = [(await platform.end_of(build))[0] for build in builds]
    assert [(e.kind, e.error_code) for e in ends] == [
        ("failed", "build_failed"),
        ("failed", "build_failed"),
        ("failed", "build_failed"),
        ("failed", "invalid_spec"),
        ("done", ""),
    ]
    assert ends[0].text.startswith("app.py, line 1: SyntaxError")
    assert "no-such-thing was not found" in ends[1].text
    assert "'python3.99' can't be built here" in ends[2].text
    assert "memory_mb = 1" in ends[3].text
    assert (await platform.live("hello")).number == 1
    assert await platform.redis.xlen(keys.BUILDS) == 0


async def test_a_source_that_is_gone_or_changed_fails_the_build(platform: Platform) -> None:
    platform.start()
    archive = pack({"app.py": CODE})
    build = await platform.queue("hello", {"app.py": CODE})
    await platform.end_of(build)
    await platform.redis.set(keys.source("default", digest(archive)), b"something else")
    event, _ = await platform.end_of(await requeue(platform, digest(archive)))
    assert (event.kind, "not what its digest says" in event.text) == ("failed", True)
    await platform.redis.delete(keys.source("default", digest(archive)))
    event, _ = await platform.end_of(await requeue(platform, digest(archive)))
    assert (event.kind, "upload it again" in event.text) == ("failed", True)


async def requeue(platform: Platform, source: str) -> str:
    build = str(uuid.uuid4())
    request = BuildRequest(build, "default", "again", {"handler": "app:handler"}, source, 0)
    await platform.redis.xadd(keys.BUILDS, {"b": wire.pack(request)})
    return build


async def test_a_route_has_one_owner(platform: Platform) -> None:
    platform.start()
    await platform.deploy("one", {"app.py": CODE}, routes=["GET /x/{id}"])
    event, _ = await platform.deploy("two", {"app.py": CODE}, routes=["GET /x/{other}"])
    assert (event.kind, "'GET /x/{other}' belongs to 'one'" in event.text) == ("failed", True)
    trigger = {"type": "http", "path": "/x/{other}", "methods": ["PUT", "GET"]}
    event, _ = await platform.deploy("two", {"app.py": CODE}, triggers=[trigger])
    assert (event.kind, "'GET /x/{other}' belongs to 'one'" in event.text) == ("failed", True)
    event, _ = await platform.deploy("two", {"app.py": CODE}, triggers=[trigger | {"host": "a.example"}])
    assert (await platform.live("two")).routes == ("PUT a.example/x/{other}", "GET a.example/x/{other}")
    event, _ = await platform.deploy("one", {"app.py": CODE}, routes=[])
    event, _ = await platform.deploy("two", {"app.py": CODE}, routes=["GET /x/{other}"])
    assert event.kind == "done"


async def test_deploys_of_one_function_take_their_order_and_the_last_wins(platform: Platform) -> None:
    builds = [await platform.queue("hello", {"app.py": CODE + f"# {n}\n"}) for n in range(6)]
    platform.start()
    ends = [(await platform.end_of(build))[0] for build in builds]
    assert [e.revision for e in ends] == [1, 2, 3, 4, 5, 6]
    revision = await platform.live("hello")
    assert (layout.layer_tree(platform.data, revision.layers[1].digest) / "app.py").read_text() == CODE + "# 5\n"


async def test_builders_that_publish_at_once_give_each_number_once(platform: Platform) -> None:
    store = Store(platform.url, "a")
    await store.open()
    base = Revision("default", "hello", 0, "", "python3", (), "app:handler", 128, 1000, 1, False, {}, (), 0)
    event = BuildEvent("done", "", "publish", 0, 0, cached=False, bytes=0)
    for n in range(8):
        await platform.queue("hello", {"app.py": f"# {n}\n"})
    jobs = [job for _ in range(8) for job in await store.take()]
    published = await asyncio.gather(
        *(store.publish(job, base._replace(digest=f"sha256:{n}"), event, "{}") for n, job in enumerate(jobs))
    )
    assert sorted(p.number for p in published if p) == list(range(1, 9))
    assert await store.publish(jobs[0], base, event, "{}") is None  # it is finished, whoever asks
    assert (await platform.live("hello")).number == 8
    await store.close()


async def test_a_build_whose_builder_died_is_finished_by_its_next_self(platform: Platform) -> None:
    dead = Store(platform.url, "builder-1")
    await dead.open()
    build = await platform.queue("hello", {"app.py": CODE})
    assert len(await dead.take()) == 1
    await dead.close(leave=False)
    platform.start("builder-1")
    assert (await platform.end_of(build))[0].kind == "done"


async def test_a_build_of_a_silent_builder_is_claimed_by_another(platform: Platform) -> None:
    dead = Store(platform.url, "dead")
    await dead.open()
    build = await platform.queue("hello", {"app.py": CODE})
    (job,) = await dead.take()
    await platform.redis.xclaim(keys.BUILDS, keys.BUILD_GROUP, "dead", 0, [job.entry], idle=600_000)
    await dead.close(leave=False)
    platform.start("alive")
    assert (await platform.end_of(build))[0].kind == "done"


async def test_a_build_that_ends_its_builders_is_given_up(platform: Platform) -> None:
    dead = Store(platform.url, "builder-1")
    await dead.open()
    build = await platform.queue("hello", {"app.py": CODE})
    (job,) = await dead.take()
    await platform.redis.xclaim(keys.BUILDS, keys.BUILD_GROUP, "builder-1", 0, [job.entry], retrycount=50)
    await dead.close(leave=False)
    platform.start("builder-1")
    event, _ = await platform.end_of(build)
    assert (event.kind, "given up" in event.text) == ("failed", True)


async def test_the_heart_beats_and_stops_in_good_order(platform: Platform, python: Interpreter) -> None:
    platform.start("builder-1")
    async with asyncio.timeout(30):
        while not (packed := await platform.redis.hget(keys.BUILDERS, "builder-1")):
            await asyncio.sleep(limits.HEARTBEAT_S / 10)
    beat = wire.unpack(BuilderBeat, packed)
    assert python.runtime in beat.runtimes
    assert beat.building == 0
    await platform.stop()
    platform.redis = redis.asyncio.Redis.from_url(platform.url)
    assert await platform.redis.hgetall(keys.BUILDERS) == {}


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A package index that never answers."""
    await reader.read()
    writer.close()


async def test_the_process_hands_back_what_it_can_t_finish(platform: Platform, tmp_path: Path) -> None:
    """SIGTERM in the middle of an endless installation, which stops no other build meanwhile: the process ends, and the
    build waits for the next builder.
    """
    build = await platform.queue("slow", {"app.py": CODE, "requirements.txt": "pillow\n"})
    never = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = never.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "builder", "--redis", platform.url, "--data", str(platform.data), "--name", "one"),
        env={"PATH": os.environ["PATH"], "UV_DEFAULT_INDEX": f"http://127.0.0.1:{port}/simple"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        while not await platform.redis.xlen(keys.build("default", build)):
            await asyncio.sleep(0.05)
        other, _ = await platform.deploy("fine", {"app.py": CODE})
        assert other.kind == "done"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    never.close()
    assert await platform.redis.xlen(keys.BUILDS) == 1
    pending = await platform.redis.xpending(keys.BUILDS, keys.BUILD_GROUP)
    assert pending["pending"] == 1


def test_a_builders_name_is_kept_and_is_nobody_elses(data_dir: Path, tmp_path: Path) -> None:
    name = builder_id(data_dir, None)
    assert builder_id(data_dir, None) == name, "after a restart it finds again what it had taken"
    assert builder_id(tmp_path, None) != name, "on the same host, another one is another one"
    with (
        alone(data_dir, name),
        alone(data_dir, "another"),
        pytest.raises(Unavailable, match="--name"),
        alone(data_dir, name),
    ):
        pass
    with alone(data_dir, name):
        pass


async def test_a_queue_that_is_not_there_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "builder", "--redis", f"unix://{tmp_path}/none.sock", "--data", str(data_dir)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 1
    assert told.startswith(b"builder: the queue does not answer")
    assert told.count(b"\n") == 1


class Held(Builder):
    """Builds of the tenant "slow" take until they are let go."""

    let_go = threading.Event()

    def make(self, request: BuildRequest, archive: bytes, tell: Tell, locked: Lock | None = None) -> Revision:
        if request.tenant == "slow":
            self.let_go.wait(60)
        return super().make(request, archive, tell, locked)


async def test_one_tenants_builds_keep_no_other_waiting(platform: Platform) -> None:
    slow = [await platform.queue(f"slow-{n}", {"app.py": CODE}, tenant="slow") for n in range(12)]
    platform.start(kind=Held)
    try:
        event, _ = await platform.deploy("quick", {"app.py": CODE})
        assert event.kind == "done"
        assert not any([await platform.redis.exists(keys.build("slow", build)) for build in slow])
    finally:
        Held.let_go.set()
