"""What becomes of messages: batches, filters, failures, dead letters, and that none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.triggers.consumer import Consumer, Held
from gateway.triggers.queues import settings
from gateway.triggers.sources.base import Message, Source
from gateway.triggers.sources.doors import Doors
from gateway.triggers.sources.redis_queues import RedisStream
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Answer
from tests import servers
from tests.triggers.brokers import Queue, redis_queue

OK = Answer("i-1", 1, "ok", b"null", False, 1000, 100, 0, 0, 0)
BROKEN = OK._replace(outcome="error", payload=b'{"errorType": "ValueError", "errorMessage": "no"}')


class Notes:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []

    def note(self, kind: str, invocation: str, text: str, count: int) -> None:
        self.told.append((kind, text, count))


class Function:
    """Stands for the function: `work` gets the bodies of a batch."""

    def __init__(self, work: Callable[[list[str]], Awaitable[Answer]] | None = None) -> None:
        self.batches: list[list[str]] = []
        self.events: list[dict[str, Any]] = []
        self.running = self.most = 0
        self._work = work
        self._called = asyncio.Event()

    async def __call__(self, event: bytes, batch: Sequence[Held]) -> Answer:
        document = json.loads(event)
        self.events.append(document)
        bodies = [record["body"] for record in document["Records"]]
        self.batches.append(bodies)
        self.running += 1
        self.most = max(self.most, self.running)
        self._called.set()
        try:
            return await self._work(bodies) if self._work else OK
        finally:
            self.running -= 1

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                self._called.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._called.wait()

    def seen(self) -> list[str]:
        return sorted(body for batch in self.batches for body in batch)


@pytest.fixture
async def stream(redis_server: servers.RedisServer, redis_url: str) -> AsyncIterator[Queue]:
    async with redis_queue("redis+stream", redis_server) as found:
        yield found


@contextlib.asynccontextmanager
async def consuming(
    queue: Queue, function: Function, source: Source | None = None, **options: Any
) -> AsyncIterator[Notes]:
    trigger = queue.trigger(**{"retry_delay_s": 0.0} | options)
    notes = Notes()
    consumer = Consumer(settings(trigger), source or Doors().source(trigger), function, notes)
    task = asyncio.create_task(consumer.run())
    try:
        yield notes
    finally:
        consumer.stop()
        async with asyncio.timeout(20):
            await task


class Mangled(RedisStream):
    """A queue as a server of others may hand it out: with text that no event can hold."""

    async def take(self, most: int, wait_s: float) -> list[Message]:
        return [replace(one, body=one.body.replace("?", "\ud800")) for one in await super().take(most, wait_s)]


async def left(queue: Queue) -> int:
    source = await queue.opened()
    waiting = await source.lag()
    await source.close()
    return waiting


async def test_messages_come_in_batches_as_sqs_has_them(stream: Queue) -> None:
    function = Function()
    await stream.put(*(str(n) for n in range(25)))
    async with consuming(stream, function):
        await function.until(lambda: len(function.seen()) == 25)
    assert sorted(map(len, function.batches)) == [5, 10, 10]
    record = function.events[0]["Records"][0]
    assert (record["eventSource"], record["body"], record["attributes"]["ApproximateReceiveCount"]) == (
        "aws:sqs",
        "0",
        "1",
    )
    assert record["eventSourceARN"].endswith(":in")
    assert await left(stream) == 0


async def test_a_window_lets_a_batch_fill(stream: Queue) -> None:
    function = Function()
    async with consuming(stream, function, batch_size=3, batch_window_s=300):
        await stream.put("a")
        await stream.put("b")
        await stream.put("c")
        await function.until(lambda: bool(function.batches))
    assert function.batches == [["a", "b", "c"]]


async def test_what_no_pattern_wants_is_left_out(stream: Queue) -> None:
    function = Function()
    await stream.put('{"size": 5}', '{"size": 50}', "no json", '{"size": 500}')
    async with consuming(stream, function, filter={"body": {"size": [{"numeric": [">", 10]}]}}):
        await function.until(lambda: len(function.seen()) == 2)
    assert function.batches == [['{"size": 50}', '{"size": 500}']]
    assert await left(stream) == 0


async def test_only_what_the_function_names_comes_again(stream: Queue) -> None:
    first = True

    async def work(bodies: list[str]) -> Answer:
        nonlocal first
        ids = [record["messageId"] for record in function.events[-1]["Records"]]
        failed, first = (ids[1:2] if first else []), False
        items = [{"itemIdentifier": one} for one in failed]
        return OK._replace(payload=json.dumps({"batchItemFailures": items}).encode())

    function = Function(work)
    await stream.put("a", "b", "c")
    async with consuming(stream, function):
        await function.until(lambda: len(function.batches) == 2)
    assert function.batches == [["a", "b", "c"], ["b"]]
    assert function.events[1]["Records"][0]["attributes"]["ApproximateReceiveCount"] == "2"
    assert await left(stream) == 0


@pytest.mark.parametrize(
    "payload",
    [
        b'{"batchItemFailures": [{"itemIdentifier": "unknown"}]}',
        b'{"batchItemFailures": [{"id": 1}]}',
        b'{"batchItemFailures": 3}',
    ],
)
async def test_a_malformed_report_fails_the_whole_batch(stream: Queue, payload: bytes) -> None:
    answers = iter([OK._replace(payload=payload), OK])

    async def work(bodies: list[str]) -> Answer:
        return next(answers)

    function = Function(work)
    await stream.put("a", "b")
    async with consuming(stream, function):
        await function.until(lambda: len(function.seen()) == 4)
    assert function.seen() == ["a", "a", "b", "b"]


async def test_poison_is_buried_after_its_tries_and_the_rest_goes_on(stream: Queue) -> None:
    async def work(bodies: list[str]) -> Answer:
        return BROKEN if "poison" in bodies else OK

    function = Function(work)
    await stream.put("good", "poison", "fine")
    async with consuming(stream, function, batch_size=1, tries=3) as notes:
        await function.until(lambda: any(kind == "dead" for kind, _, _ in notes.told))
    assert function.seen() == ["fine", "good", "poison", "poison", "poison"]
    assert await stream.dead() == ["poison"]
    (text,) = [text for kind, text, _ in notes.told if kind == "dead"]
    assert "in:dead after 3 tries" in text and "ValueError: no" in text
    assert await left(stream) == 0


async def test_what_the_platform_could_not_run_is_no_try(stream: Queue) -> None:
    answers: list[Answer | Exception] = [Unavailable("no invoker is alive"), OK._replace(outcome="throttled"), OK]

    async def work(bodies: list[str]) -> Answer:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    function = Function(work)
    await stream.put("a")
    async with consuming(stream, function, tries=1):
        await function.until(lambda: not answers)
    assert [event["Records"][0]["attributes"]["ApproximateReceiveCount"] for event in function.events] == ["1"] * 3
    assert await stream.dead() == []


async def test_no_more_is_taken_than_can_run(stream: Queue) -> None:
    gate = asyncio.Event()

    async def work(bodies: list[str]) -> Answer:
        await gate.wait()
        return OK

    function = Function(work)
    await stream.put(*(str(n) for n in range(30)))
    async with consuming(stream, function, batch_size=2, max_concurrency=3):
        await function.until(lambda: function.running == 3)
        assert len(function.seen()) == 6
        gate.set()
        await function.until(lambda: len(function.seen()) == 30)
    assert function.most == 3


async def test_in_order_nothing_newer_runs_before_what_failed(stream: Queue) -> None:
    answers = iter([BROKEN, BROKEN])

    async def work(bodies: list[str]) -> Answer:
        return next(answers, OK)

    function = Function(work)
    await stream.put("a", "b", "c")
    async with consuming(stream, function, batch_size=1, ordered=True):
        await function.until(lambda: len(function.seen()) == 5)
    assert function.batches == [["a"], ["a"], ["a"], ["b"], ["c"]]


async def test_a_consumer_that_is_killed_leaves_its_messages_to_the_next(stream: Queue) -> None:
    async def never(bodies: list[str]) -> Answer:
        await asyncio.Event().wait()
        return OK

    stuck, trigger = Function(never), stream.trigger()
    await stream.put("a", "b")
    task = asyncio.create_task(Consumer(settings(trigger), Doors().source(trigger), stuck, Notes()).run())
    await stuck.until(lambda: stuck.running == 1)
    while not task.done():  # redis-py can swallow a cancellation
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
    after = Function()
    async with consuming(stream, after):
        await after.until(lambda: len(after.seen()) == 2)
    assert after.seen() == ["a", "b"]
    assert after.events[0]["Records"][0]["attributes"]["ApproximateReceiveCount"] == "2"


async def test_a_message_that_takes_too_long_to_filter_is_passed_over_and_told(stream: Queue) -> None:
    function = Function()
    await stream.put(json.dumps({"x": ["b"] * 300_000}), json.dumps({"x": "abc"}))
    async with consuming(stream, function, filter={"body": {"x": [{"prefix": "a"}]}}) as notes:
        await function.until(lambda: len(function.seen()) == 1)
    assert function.seen() == ['{"x": "abc"}']
    assert [kind for kind, text, _ in notes.told if "passed over" in text] == ["failed"]
    assert await left(stream) == 0


async def test_what_can_be_no_event_is_buried_and_its_batch_goes_on(stream: Queue, redis_url: str) -> None:
    function = Function()
    await stream.put("a", "?", "b")
    async with consuming(stream, function, Mangled(redis_url, "in", "g")) as notes:
        await function.until(lambda: bool(function.batches))
    assert function.batches == [["a", "b"]]
    assert await stream.dead() == ["?"]
    assert ["no event can be made" in text for kind, text, _ in notes.told if kind == "dead"] == [True]


async def test_an_error_that_is_no_text_buries_its_message_all_the_same(stream: Queue) -> None:
    async def work(bodies: list[str]) -> Answer:
        return BROKEN._replace(payload=b'{"errorType": "E", "errorMessage": "\\ud800"}')

    await stream.put("bad")
    async with consuming(stream, Function(work), tries=1) as notes:
        await Function().until(lambda: any(kind == "dead" for kind, _, _ in notes.told))
    assert await stream.dead() == ["bad"]
