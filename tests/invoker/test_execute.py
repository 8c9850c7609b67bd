"""A call's whole way through the invoker: a real queue, twins of sandboxes, the real clock."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from invoker.classify import UNEXPLAINED_US, classify
from invoker.sandbox import Exit, Loaded, Reply
from jiffy.contract import keys, meter
from jiffy.contract.messages import (
    Call,
    Outcome,
)
from jiffy.contract.wire import unpack
from tests import servers

from .fakes import revision
from .onehost import CALLS, OneHost

pytestmark = pytest.mark.redis


async def test_a_call_is_answered_metered_and_logged(host: OneHost) -> None:
    call = await host.send(payload=b'{"hello": "world"}')
    answer = await host.answer()
    assert answer.invocation == call.invocation and answer.attempt == 1
    assert answer.outcome == Outcome.OK and answer.payload == b'{"hello": "world"}'
    assert answer.cold and answer.init_us > 0
    assert answer.billed_ms == 100 and answer.max_memory_bytes == 1_000_000
    [usage] = await host.usages()
    assert usage.invocation == call.invocation and usage.function == "hello" and usage.invoker == "inv-1"
    assert (usage.outcome, usage.duration_us, usage.billed_ms) == (answer.outcome, answer.duration_us, 100)
    assert usage.memory_mb == 128 and usage.cpu_us == 7 and usage.trigger == "http"
    assert usage.bytes_in == usage.bytes_out == 18
    [entry] = await host.logs()
    assert entry.first and entry.text == b""
    assert entry.report == ("ok", answer.duration_us, 100, 128, 1_000_000, answer.init_us)
    assert await host.redis.xlen(CALLS) == 0


@pytest.mark.parametrize("deep", [100_000, 200_000])
async def test_an_error_that_cannot_be_parsed_ends_the_call_like_any_other(host: OneHost, deep: int) -> None:
    host.world.function = lambda _: Reply(False, b"[" * deep + b'"MemoryError"', 1)
    await host.send()
    assert (await host.answer()).outcome == Outcome.ERROR
    assert [usage.billed_ms for usage in await host.usages()] == [100]
    await host.executor.settled()


async def test_an_answer_that_makes_us_fail_is_a_crash_billed_for_what_was_measured(host: OneHost) -> None:
    host.world.function = lambda _: Reply(True, b"1", "long")  # type: ignore[arg-type]
    await host.send()
    answer = await host.answer()
    assert (answer.outcome, answer.billed_ms) == (Outcome.CRASH, 100) and answer.duration_us > 0
    host.world.function = lambda payload: Reply(True, payload, 1)
    await host.send()
    assert (await host.answer()).outcome == Outcome.OK
    assert sum(len(s.instances) for s in host.world.sandboxes) == 2, "the instance was not used again"
    await host.executor.settled()


async def test_a_step_of_the_servers_clock_is_not_billed(host: OneHost) -> None:
    begun, end = asyncio.Event(), asyncio.get_running_loop().create_future()

    def function(_: bytes) -> Any:
        begun.set()
        return end

    host.world.function = function
    await host.send()
    await begun.wait()
    host.clock.offset_us += 3_600_000_000
    end.set_result(Reply(True, b"1", 50))
    answer = await host.answer()
    assert (answer.outcome, answer.billed_ms) == (Outcome.OK, 100)
    [usage] = await host.usages()
    assert abs(usage.started_ms - host.now_ms() + 3_600_000) < 60_000, "on the clock on which it was accepted"


async def test_the_next_call_is_warm(host: OneHost) -> None:
    await host.send()
    await host.answer()
    await host.send()
    answer = await host.answer()
    assert not answer.cold and answer.init_us == 0
    assert len(host.world.used) == 1


async def test_what_a_function_prints_is_in_its_log(host: OneHost) -> None:
    def chatty(payload: bytes) -> Reply:
        host.world.used[0].instances[0].printed = b"working on " + payload + b"\n"
        return Reply(True, b"null", 10)

    host.world.function = chatty
    host.world.loading = Loaded(10, None, b"importing\n")
    await host.send(payload=b"1")
    await host.answer()
    await host.send(payload=b"2")
    await host.answer()
    assert [entry.text for entry in await host.logs()] == [b"importing\nworking on 1\n", b"working on 2\n"]


async def test_the_log_of_a_call_that_runs_can_be_followed(host: OneHost) -> None:
    future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()

    def slow(_: bytes) -> asyncio.Future[Reply | Exit]:
        host.world.used[0].instances[0].printed = b"first\n"
        return future

    host.world.function = slow
    await host.send()
    await host.redis.xread({keys.logs("default", "hello"): 0}, block=10_000)
    [entry] = await host.logs()
    assert entry.text == b"first\n" and entry.first and entry.report is None
    host.world.used[0].instances[0].printed = b"last\n"
    future.set_result(Reply(True, b"1", 300_000))
    await host.answer()
    _, last = await host.logs()
    assert last.text == b"last\n" and not last.first and last.report is not None


@pytest.mark.parametrize(
    ("result", "outcome", "kind", "text"),
    [
        (Reply(False, b'{"errorType":"ValueError","errorMessage":"no"}', 9), Outcome.ERROR, "ValueError", "no"),
        (
            Exit("timeout", 9, 9),
            Outcome.TIMEOUT,
            "Sandbox.Timedout",
            "Task timed out after 3.00 seconds; raise timeout_s in jiffy.toml",
        ),
        (Exit("out_of_memory", 9, 9), Outcome.OUT_OF_MEMORY, "Runtime.OutOfMemory", "memory_mb = 128"),
        (Reply(False, b'{"errorType":"MemoryError"}', 9), Outcome.OUT_OF_MEMORY, "Runtime.OutOfMemory", "128"),
        (Exit("exit", 1, 9), Outcome.CRASH, "Runtime.ExitError", "exited with status 1"),
        (Exit("signal", 11, 9), Outcome.CRASH, "Runtime.ExitError", "killed by signal 11 (SIGSEGV)"),
        (Exit("closed", 0, 9), Outcome.CRASH, "Runtime.ExitError", "closed its connection"),
    ],
)
async def test_a_function_that_fails_is_an_outcome_and_the_next_call_works(
    host: OneHost, result: Reply | Exit, outcome: Outcome, kind: str, text: str
) -> None:
    host.world.function = lambda _: result
    await host.send()
    answer = await host.answer()
    assert answer.outcome == outcome and answer.billed_ms == 100
    error = json.loads(answer.payload)
    assert error["errorType"] == kind and text in error.get("errorMessage", "128")
    [entry] = await host.logs()
    if kind == "ValueError":  # the agent's to log
        assert entry.text == b""
    else:
        assert entry.text.startswith(f"[ERROR] {kind}: ".encode()) and text.encode() in entry.text
    host.world.function = lambda payload: Reply(True, payload, 1)
    await host.send()
    assert (await host.answer()).outcome == Outcome.OK
    assert [usage.outcome for usage in await host.usages()] == [outcome, Outcome.OK]


async def test_a_failed_import_is_an_error_of_one_billed_step(host: OneHost) -> None:
    host.world.loading = Loaded(1, b'{"errorType":"Runtime.ImportModuleError"}', b"about to fail\n")
    await host.send()
    answer = await host.answer()
    assert answer.outcome == Outcome.ERROR and json.loads(answer.payload)["errorType"] == "Runtime.ImportModuleError"
    assert answer.duration_us == 0 and answer.billed_ms == 100 and answer.cold and answer.init_us > 0
    [entry] = await host.logs()
    assert entry.text == b"about to fail\n"


async def test_a_call_is_metered_by_the_tariff_that_it_carries(host: OneHost) -> None:
    await host.send(revision(spec={"tags": {"team": "x", "stage": "prod"}}), tariff=meter.Tariff(7, 1, 30_000, False))
    assert (await host.answer()).billed_ms == 30_000
    [usage] = await host.usages()
    assert (usage.billed_ms, usage.book, usage.tags) == (30_000, 7, "stage=prod,team=x")


async def test_a_call_that_came_too_late_is_throttled_and_not_billed(host: OneHost) -> None:
    gate: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    host.world.function = lambda _: gate
    narrow = revision(max_instances=1)
    await host.send(narrow)
    late = await host.send(narrow, deadline_ms=host.now_ms() + 3_400)  # may begin for 0.4 s
    while not host.pool.running:
        await asyncio.sleep(0.001)
    keeping = asyncio.ensure_future(host.pool.run())
    answer = await host.answer()
    keeping.cancel()
    assert answer.invocation == late.invocation
    assert answer.outcome == Outcome.THROTTLED and answer.billed_ms == 0 and answer.retry_after_s > 0
    assert b"max_instances = 1" in answer.payload
    [entry] = await host.logs()
    assert entry.text.startswith(f"RequestId: {late.invocation} hello was not run: ".encode())
    gate.set_result(Reply(True, b"1", 1))
    assert (await host.answer()).outcome == Outcome.OK


async def test_a_call_for_an_instance_that_has_just_ended_goes_to_another(host: OneHost) -> None:
    await host.send()
    await host.answer()
    host.world.used[0].instances[0].ended = Exit("exit", 1, 0)
    await host.send()
    assert (await host.answer()).outcome == Outcome.OK
    assert len(host.world.used[0].instances) == 2


async def test_a_call_that_was_too_long_in_the_queue_is_not_started(host: OneHost) -> None:
    await host.send()
    await host.answer()
    await host.send(deadline_ms=host.now_ms() + 2_000)  # of which its timeout alone needs 3 s
    answer = await host.answer()
    assert answer.outcome == Outcome.THROTTLED and b"in the queue" in answer.payload


async def test_many_calls_all_come_back_once(host: OneHost) -> None:
    sent = {(await host.send(payload=str(n).encode())).invocation: str(n).encode() for n in range(300)}
    answers = [await host.answer() for _ in range(300)]
    assert {answer.invocation: answer.payload for answer in answers} == sent
    assert len(await host.usages()) == 300


async def test_what_is_no_call_is_dropped_and_the_others_run(host: OneHost) -> None:
    await host.redis.xadd(CALLS, {"c": b"garbage"})
    await host.send(revision=b"garbage")
    await host.send()
    assert (await host.answer()).outcome == Outcome.OK
    await host.executor.stop()
    await host.running
    assert await host.redis.xlen(CALLS) == 0
    assert len(await host.usages()) == 1, "what was no call is no usage either"


async def test_an_entry_that_is_read_twice_runs_once(host: OneHost) -> None:
    future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    runs: list[bytes] = []

    def function(payload: bytes) -> asyncio.Future[Reply | Exit]:
        runs.append(payload)
        return future

    host.world.function = function
    call = await host.send()
    while not host.pool.running:
        await asyncio.sleep(0.001)
    [(entry, fields)] = await host.redis.xrange(CALLS)
    host.executor.accept([(entry, fields[b"c"])])
    assert not host.pool.totals.calls
    future.set_result(Reply(True, b"1", 1))
    assert (await host.answer()).invocation == call.invocation
    assert len(runs) == 1


async def test_stopping_lets_running_calls_end(host: OneHost) -> None:
    future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    host.world.function = lambda _: future
    await host.send()
    while not host.pool.running:
        await asyncio.sleep(0.001)
    host.pool.drain()
    await host.executor.stop()
    queued = await host.send()
    future.set_result(Reply(True, b"1", 1))
    await host.running
    assert (await host.answer()).outcome == Outcome.OK
    [(_, fields)] = await host.redis.xrange(CALLS)
    assert unpack(Call, fields[b"c"]) == queued, "what was not read waits for the next start"


async def test_redis_goes_and_comes_back_and_every_call_is_answered_once() -> None:
    with servers.valkey(persistent=True) as server:
        host = OneHost(server.url)
        await host.start()
        future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
        host.world.function = lambda _: future
        running = await host.send()
        while not host.pool.running:
            await asyncio.sleep(0.001)
        server.stop()
        future.set_result(Reply(True, b"1", 1))
        server.start()
        await host.redis.connection_pool.disconnect()  # ours, which the server ended
        assert (await host.answer()).invocation == running.invocation
        host.world.function = lambda payload: Reply(True, payload, 1)
        fresh = await host.send()
        assert (await host.answer()).invocation == fresh.invocation
        assert len(await host.usages()) == 2
        await host.stop()
        await host.redis.aclose()


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
