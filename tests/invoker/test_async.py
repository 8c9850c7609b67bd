"""Asynchronous calls in the invoker: results, next attempts, dead letters, crashes."""

from __future__ import annotations

import asyncio

import pytest

from invoker.sandbox import Exit, Reply
from jiffy.contract import keys
from jiffy.contract.messages import Call, DeadLetter, Outcome, Terms
from jiffy.contract.retry import Reason
from jiffy.contract.wire import unpack

from .fakes import World
from .onehost import OneHost

pytestmark = pytest.mark.redis


async def test_an_asynchronous_call_leaves_its_result(host: OneHost) -> None:
    call = await host.send(mode="async", gateway="")
    record = await host.record_when(call, "done")
    assert record.answer is not None and record.answer.outcome == Outcome.OK and record.attempts == 1
    assert record.answer.payload == call.payload


async def test_a_long_asynchronous_call_is_said_to_run(host: OneHost) -> None:
    future: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    host.world.function = lambda _: future
    call = await host.send(mode="async", gateway="")
    running = await host.record_when(call, "running")
    assert running.answer is None
    future.set_result(Reply(True, b"1", 1))
    done = await host.record_when(call, "done")
    assert done.answer is not None and done.answer.payload == b"1"


async def test_a_crash_under_a_call_fails_the_caller_and_tries_the_asynchronous_one_again(host: OneHost) -> None:
    never: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    host.world.function = lambda _: never
    waiting = await host.send()
    later = await host.send(mode="async", gateway="")
    while host.pool.running < 2:
        await asyncio.sleep(0.001)
    await host.crash()
    host.world = World()
    await host.start()
    answer = await host.answer()
    assert answer.invocation == waiting.invocation and answer.outcome == Outcome.PLATFORM and answer.billed_ms == 0
    assert b"restarted while this call ran" in answer.payload
    await host.move(later)
    record = await host.record_when(later, "done")
    assert record.attempts == 2 and record.answer is not None and record.answer.outcome == Outcome.OK
    found = sorted((usage.invocation, usage.attempt, usage.outcome, usage.billed_ms) for usage in await host.usages())
    assert found == [
        (waiting.invocation, 1, "platform", 0),
        (later.invocation, 1, "platform", 0),
        (later.invocation, 2, "ok", 100),
    ]


async def test_a_call_that_kills_invokers_is_not_tried_for_ever(host: OneHost) -> None:
    never: asyncio.Future[Reply | Exit] = asyncio.get_running_loop().create_future()
    host.world.function = lambda _: never
    terms = Terms(0, host.now_ms() + 60_000, tried=2, failed=2)
    call = await host.send(mode="async", gateway="", attempt=3, terms=terms)
    while not host.pool.running:
        await asyncio.sleep(0.001)
    await host.crash()
    host.world = World()
    await host.start()
    record = await host.record_when(call, "dead")
    assert record.answer is not None and record.answer.outcome == Outcome.PLATFORM
    assert record.reason == Reason.PLATFORM
    assert host.world.starts == 0


async def test_a_function_that_fails_is_tried_again_and_then_dead(host: OneHost) -> None:
    host.world.function = lambda _: Reply(False, b'{"errorType":"ValueError","errorMessage":"no"}', 10)
    call = await host.send(mode="async", gateway="", terms=Terms(2, host.now_ms() + 60_000, backoff_ms=1000))
    assert await host.move(call) <= 1000
    assert await host.move(call) <= 2000
    record = await host.record_when(call, "dead")
    assert (record.attempts, record.reason) == (3, Reason.FAILED)
    packed = await host.redis.hget(keys.dead_letters("default"), call.invocation)
    letter = unpack(DeadLetter, packed or b"")
    assert (letter.attempts, letter.outcome, letter.function) == (3, "error", "hello")
    assert b"ValueError" in letter.error
    kept = unpack(Call, await host.redis.hget(keys.dead_calls("default"), call.invocation) or b"")
    assert kept.payload == call.payload and kept.attempt == 3
    assert [(usage.attempt, usage.billed_ms) for usage in await host.usages()] == [(1, 100), (2, 100), (3, 100)]


async def test_an_asynchronous_call_that_is_too_old_never_begins(host: OneHost) -> None:
    host.world.function = lambda _: Reply(False, b"{}", 10)
    expired = Terms(9, host.now_ms() - 1)
    call = await host.send(mode="async", gateway="", terms=expired, deadline_ms=expired.expires_ms + 3000)
    record = await host.record_when(call, "dead")
    assert record.reason == Reason.EXPIRED and record.answer is not None
    assert record.answer.outcome == Outcome.THROTTLED, "its handler was not started"
