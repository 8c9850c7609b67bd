"""A call's whole way through the invoker: a real queue, twins of sandboxes, the real clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from invoker.classify import UNEXPLAINED_US, classify
from invoker.execute import ATTEMPTS_MAX, Executor
from invoker.pool import Memory, Pool
from invoker.room import Room
from invoker.sandbox import Exit, Loaded, Reply
from invoker.stems import Stems
from invoker.store import Store
from jiffy.contract import keys
from jiffy.contract.clock import Clock
from jiffy.contract.messages import Answer, Call, InvocationRecord, LogEntry, Outcome, Revision, Usage
from jiffy.contract.wire import pack, unpack
from tests import servers

from .fakes import World, revision

pytestmark = pytest.mark.redis
CALLS = keys.calls("inv-1")


class House:
    """One invoker over twins, as __main__ wires it, and a gateway's view of it."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url)
        self.world = World()
        self._url = url
        self._sent = 0

    async def start(self) -> None:
        self.clock = clock = Clock()
        self.store = Store(self._url, "inv-1", clock)
        await self.store.open()
        self.pool = Pool(Stems(self.world.start, 1), clock.monotonic_us, lambda: Memory(16_000, 8_000), Room(50))
        self.executor = Executor("inv-1", self.store, self.pool, clock)
        self.running = asyncio.ensure_future(self.executor.run())
        self.now_ms: Callable[[], int] = lambda: clock() // 1000

    async def stop(self) -> None:
        await self.executor.stop()
        await self.pool.close()
        await self.running
        await self.store.close()

    async def crash(self) -> None:
        """As kill -9 does: nothing more is said to Redis."""
        self.running.cancel()
        await asyncio.wait((self.running,))
        await self.store.close()
        await self.pool.close()

    async def send(self, of: Revision | None = None, payload: bytes = b'{"n":1}', **changes: Any) -> Call:
        self._sent += 1
        made = of or revision()
        now_ms = int((await self.redis.time())[0]) * 1000
        call = Call(
            *(f"call-{self._sent}", 1, "sync", "gw", now_ms, now_ms + 10_000 + made.timeout_ms, "http"),
            *(pack(made), payload),
        )._replace(**changes)
        await self.redis.xadd(CALLS, {"c": pack(call)})
        return call

    async def answer(self) -> Answer:
        popped: Any = await self.redis.blpop([keys.answers("gw")], timeout=10)
        assert popped is not None, "no answer came"
        return unpack(Answer, popped[1])

    async def usages(self) -> list[Usage]:
        return [unpack(Usage, fields[b"u"]) for _, fields in await self.redis.xrange(keys.USAGE)]

    async def logs(self) -> list[LogEntry]:
        found = await self.redis.xrange(keys.logs("default", "hello"))
        return [unpack(LogEntry, fields[b"l"]) for _, fields in found]

    async def record(self, call: Call) -> InvocationRecord | None:
        packed: Any = await self.redis.get(keys.invocation(call.invocation))
        return unpack(InvocationRecord, packed) if packed else None

    async def record_when(self, call: Call, state: str) -> InvocationRecord:
        async with asyncio.timeout(10):
            while (record := await self.record(call)) is None or record.state != state:
                await asyncio.sleep(0.005)  # Redis tells nobody about a key that is set
        return record


@pytest.fixture
async def house(redis_url: str) -> AsyncIterator[House]:
    house = House(redis_url)
    await house.start()
    yield house
    await house.stop()
    await house.redis.aclose()


async def test_a_call_is_answered_metered_and_logged(house: House) -> None:
    call = await house.send(payload=b'{"hello": "world"}')
    answer = await house.answer()
    assert answer.invocation == call.invocation and answer.attempt == 1
    assert answer.outcome == Outcome.OK and answer.payload == b'{"hello": "world"}'
    assert answer.cold and answer.init_us > 0
    assert answer.billed_ms == 100 and answer.max_memory_bytes == 1_000_000
    [usage] = await house.usages()
    assert usage.invocation == call.invocation and usage.function == "hello" and usage.invoker == "inv-1"
    assert (usage.outcome, usage.duration_us, usage.billed_ms) == (answer.outcome, answer.duration_us, 100)
    assert usage.memory_mb == 128 and usage.cpu_us == 7 and usage.trigger == "http"
    assert usage.bytes_in == usage.bytes_out == 18
    [entry] = await house.logs()
    assert entry.first and entry.text == b""
    assert entry.report == ("ok", answer.duration_us, 100, 128, 1_000_000, answer.init_us)
    assert await house.redis.xlen(CALLS) == 0


async def test_a_step_of_the_servers_clock_is_not_billed(house: House) -> None:
    begun, end = asyncio.Event(), asyncio.get_running_loop().create_future()

    def function(_: bytes) -> Any:
        begun.set()
        return end

    house.world.function = function
    await house.send()
    await begun.wait()
    house.clock.offset_us += 3_600_000_000
    end.set_result(Reply(True, b"1", 50))
    answer = await house.answer()
    assert (answer.outcome, answer.billed_ms) == (Outcome.OK, 100)
    [usage] = await house.usages()
    assert abs(usage.started_ms - house.now_ms() + 3_600_000) < 60_000, "on the clock on which it was accepted"


async def test_the_next_call_is_warm(house: House) -> None:
    await house.send()
    await house.answer()
    await house.send()
    answer = await house.answer()
    assert not answer.cold and answer.init_us == 0
    assert len(house.world.used) == 1


async def test_what_a_function_prints_is_in_its_log(house: House) -> None:
    def chatty(payload: bytes) -> Reply:
        house.world.used[0].instances[0].printed = b"working on " + payload + b"\n"
        return Reply(True, b"null", 10)

    house.world.function = chatty
    house.world.loading = Loaded(10, None, b"importing\n")
    await house.send(payload=b"1")
    await house.answer()
    await house.send(payload=b"2")
    await house.answer()
    assert [entry.text for entry in await house.logs()] == [b"importing\nworking on 1\n", b"working on 2\n"]


async def test_the_log_of_a_call_that_runs_can_be_followed(house: House) -> None:
    future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()

    def slow(_: bytes) -> asyncio.Future[Reply | Exit]:
        house.world.used[0].instances[0].printed = b"first\n"
        return future

    house.world.function = slow
    await house.send()
    await house.redis.xread({keys.logs("default", "hello"): 0}, block=10_000)
    [entry] = await house.logs()
    assert entry.text == b"first\n" and entry.first and entry.report is None
    house.world.used[0].instances[0].printed = b"last\n"
    future.set_result(Reply(True, b"1", 300_000))
    await house.answer()
    _, last = await house.logs()
    assert last.text == b"last\n" and not last.first and last.report is not None


@pytest.mark.parametrize(
    ("result", "outcome", "kind", "text"),
    [
        (Reply(False, b'{"errorType":"ValueError","errorMessage":"no"}', 9), Outcome.ERROR, "ValueError", "no"),
        (Exit("timeout", 9, 9), Outcome.TIMEOUT, "Sandbox.Timedout", "Task timed out after 3.00 seconds"),
        (Exit("out_of_memory", 9, 9), Outcome.OUT_OF_MEMORY, "Runtime.OutOfMemory", "memory_mb = 128"),
        (Reply(False, b'{"errorType":"MemoryError"}', 9), Outcome.OUT_OF_MEMORY, "Runtime.OutOfMemory", "128"),
        (Exit("exit", 1, 9), Outcome.CRASH, "Runtime.ExitError", "exited with status 1"),
        (Exit("signal", 11, 9), Outcome.CRASH, "Runtime.ExitError", "killed by signal 11 (SIGSEGV)"),
        (Exit("closed", 0, 9), Outcome.CRASH, "Runtime.ExitError", "closed its connection"),
    ],
)
async def test_a_function_that_fails_is_an_outcome_and_the_next_call_works(
    house: House, result: Reply | Exit, outcome: Outcome, kind: str, text: str
) -> None:
    house.world.function = lambda _: result
    await house.send()
    answer = await house.answer()
    assert answer.outcome == outcome and answer.billed_ms == 100
    error = json.loads(answer.payload)
    assert error["errorType"] == kind and text in error.get("errorMessage", "128")
    [entry] = await house.logs()
    if kind == "ValueError":  # the agent's to log
        assert entry.text == b""
    else:
        assert entry.text.startswith(f"[ERROR] {kind}: ".encode()) and text.encode() in entry.text
    house.world.function = lambda payload: Reply(True, payload, 1)
    await house.send()
    assert (await house.answer()).outcome == Outcome.OK
    assert [usage.outcome for usage in await house.usages()] == [outcome, Outcome.OK]


async def test_a_failed_import_is_an_error_of_one_billed_step(house: House) -> None:
    house.world.loading = Loaded(1, b'{"errorType":"Runtime.ImportModuleError"}', b"about to fail\n")
    await house.send()
    answer = await house.answer()
    assert answer.outcome == Outcome.ERROR and json.loads(answer.payload)["errorType"] == "Runtime.ImportModuleError"
    assert answer.duration_us == 0 and answer.billed_ms == 100 and answer.cold and answer.init_us > 0
    [entry] = await house.logs()
    assert entry.text == b"about to fail\n"


async def test_a_call_that_came_too_late_is_throttled_and_not_billed(house: House) -> None:
    gate: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    house.world.function = lambda _: gate
    narrow = revision(max_instances=1)
    await house.send(narrow)
    late = await house.send(narrow, deadline_ms=house.now_ms() + 3_400)  # may begin for 0.4 s
    while not house.pool.running:
        await asyncio.sleep(0.001)
    keeping = asyncio.ensure_future(house.pool.run())
    answer = await house.answer()
    keeping.cancel()
    assert answer.invocation == late.invocation
    assert answer.outcome == Outcome.THROTTLED and answer.billed_ms == 0 and answer.retry_after_s > 0
    assert b"max_instances = 1" in answer.payload
    gate.set_result(Reply(True, b"1", 1))
    assert (await house.answer()).outcome == Outcome.OK


async def test_an_asynchronous_call_leaves_its_result(house: House) -> None:
    call = await house.send(mode="async", gateway="")
    record = await house.record_when(call, "done")
    assert record.answer is not None and record.answer.outcome == Outcome.OK and record.attempts == 1
    assert record.answer.payload == call.payload


async def test_a_long_asynchronous_call_is_said_to_run(house: House) -> None:
    future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    house.world.function = lambda _: future
    call = await house.send(mode="async", gateway="")
    running = await house.record_when(call, "running")
    assert running.answer is None
    future.set_result(Reply(True, b"1", 1))
    done = await house.record_when(call, "done")
    assert done.answer is not None and done.answer.payload == b"1"


async def test_a_call_for_an_instance_that_has_just_ended_goes_to_another(house: House) -> None:
    await house.send()
    await house.answer()
    house.world.used[0].instances[0].ended = Exit("exit", 1, 0)
    await house.send()
    assert (await house.answer()).outcome == Outcome.OK
    assert len(house.world.used[0].instances) == 2


async def test_a_call_that_was_too_long_in_the_queue_is_not_started(house: House) -> None:
    await house.send()
    await house.answer()
    await house.send(deadline_ms=house.now_ms() + 2_000)  # of which its timeout alone needs 3 s
    answer = await house.answer()
    assert answer.outcome == Outcome.THROTTLED and b"in the queue" in answer.payload


async def test_many_calls_all_come_back_once(house: House) -> None:
    sent = {(await house.send(payload=str(n).encode())).invocation: str(n).encode() for n in range(300)}
    answers = [await house.answer() for _ in range(300)]
    assert {answer.invocation: answer.payload for answer in answers} == sent
    assert len(await house.usages()) == 300


async def test_what_is_no_call_is_dropped_and_the_others_run(house: House) -> None:
    await house.redis.xadd(CALLS, {"c": b"garbage"})
    await house.send(revision=b"garbage")
    await house.send()
    assert (await house.answer()).outcome == Outcome.OK
    await house.executor.stop()
    await house.running
    assert await house.redis.xlen(CALLS) == 0


async def test_a_crash_under_a_call_fails_the_caller_and_tries_the_asynchronous_one_again(house: House) -> None:
    never: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    house.world.function = lambda _: never
    waiting = await house.send()
    later = await house.send(mode="async", gateway="")
    while house.pool.running < 2:
        await asyncio.sleep(0.001)
    await house.crash()
    house.world = World()
    await house.start()
    answer = await house.answer()
    assert answer.invocation == waiting.invocation and answer.outcome == Outcome.PLATFORM and answer.billed_ms == 0
    assert b"restarted while this call ran" in answer.payload
    record = await house.record_when(later, "done")
    assert record.attempts == 2 and record.answer is not None and record.answer.outcome == Outcome.OK
    found = sorted((usage.invocation, usage.attempt, usage.outcome, usage.billed_ms) for usage in await house.usages())
    assert found == [
        (waiting.invocation, 1, "platform", 0),
        (later.invocation, 1, "platform", 0),
        (later.invocation, 2, "ok", 100),
    ]


async def test_a_call_that_kills_invokers_is_not_tried_for_ever(house: House) -> None:
    never: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    house.world.function = lambda _: never
    call = await house.send(mode="async", gateway="", attempt=ATTEMPTS_MAX)
    while not house.pool.running:
        await asyncio.sleep(0.001)
    await house.crash()
    house.world = World()
    await house.start()
    record = await house.record_when(call, "done")
    assert record.answer is not None and record.answer.outcome == Outcome.PLATFORM
    assert house.world.starts == 0


async def test_stopping_lets_running_calls_end(house: House) -> None:
    future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    house.world.function = lambda _: future
    await house.send()
    while not house.pool.running:
        await asyncio.sleep(0.001)
    house.pool.drain()
    await house.executor.stop()
    queued = await house.send()
    future.set_result(Reply(True, b"1", 1))
    await house.running
    assert (await house.answer()).outcome == Outcome.OK
    [(_, fields)] = await house.redis.xrange(CALLS)
    assert unpack(Call, fields[b"c"]) == queued, "what was not read waits for the next start"


async def test_redis_goes_and_comes_back_and_every_call_is_answered_once() -> None:
    with servers.valkey(persistent=True) as server:
        house = House(server.url)
        await house.start()
        future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
        house.world.function = lambda _: future
        running = await house.send()
        while not house.pool.running:
            await asyncio.sleep(0.001)
        server.stop()
        future.set_result(Reply(True, b"1", 1))
        server.start()
        await house.redis.connection_pool.disconnect()  # ours, which the server ended
        assert (await house.answer()).invocation == running.invocation
        house.world.function = lambda payload: Reply(True, payload, 1)
        fresh = await house.send()
        assert (await house.answer()).invocation == fresh.invocation
        assert len(await house.usages()) == 2
        await house.stop()
        await house.redis.aclose()


def test_a_duration_is_never_longer_than_we_measured() -> None:
    assert classify(Reply(True, b"1", 10**9), revision(), 500).duration_us == 500
    assert classify(Reply(True, b"1", 400), revision(), 500).duration_us == 400


def test_a_forged_duration_hides_next_to_nothing() -> None:
    for forged in (0, 1, -(10**9)):
        assert classify(Reply(True, b"1", forged), revision(), 60_000_000).duration_us == 60_000_000 - UNEXPLAINED_US


def test_a_timeout_is_billed_for_the_timeout_and_not_for_the_kill() -> None:
    ending = classify(Exit("timeout", 9, 3_004_000), revision(timeout_ms=3_000), 3_005_000)
    assert ending.duration_us == 3_000_000


def test_a_result_that_speaks_of_memory_errors_is_just_an_error() -> None:
    payload = json.dumps({"errorType": "ValueError", "errorMessage": "MemoryError"}).encode()
    assert classify(Reply(False, payload, 1), revision(), 5).outcome is Outcome.ERROR
    assert classify(Reply(False, b"MemoryError", 1), revision(), 5).outcome is Outcome.ERROR
