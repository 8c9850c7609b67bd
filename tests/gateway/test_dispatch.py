"""The story of a call, against a queue that the test drives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from gateway.dispatch import Dispatcher
from gateway.loops import Loops
from gateway.outbox import BATCH_MAX
from gateway.store import ANSWERS_MAX_BYTES, Sent, Store
from jiffy.contract import keys, limits, wire
from jiffy.contract.errors import DeadlineExceeded, JiffyError, PlatformError, Unavailable
from jiffy.contract.messages import Answer, Call
from tests.gateway.fake_invoker import answer


class DrivenQueue:
    """A queue in memory: sends wait while `gate` is closed; `answers` are what is received."""

    def __init__(self) -> None:
        self.batches: list[list[Sent]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.sending = asyncio.Event()
        self.taken = asyncio.Event()
        self.answers: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.send_fails = self.receive_fails = False

    async def send(self, batch: Sequence[Sent]) -> None:
        self.sending.set()
        await self.gate.wait()
        if self.send_fails:
            raise Unavailable("the queue does not answer")
        self.batches.append(list(batch))
        self.taken.set()

    async def took(self, calls: int) -> None:
        """Wait until so many calls were sent."""
        while sum(map(len, self.batches)) < calls:
            self.taken.clear()
            await self.taken.wait()

    async def receive(self, gateway: str, wait_s: float = 1.0) -> Sequence[bytes]:
        if self.receive_fails:
            raise Unavailable("the queue does not answer")
        return await self.answers.get()


def call(n: int, size: int = 2) -> Call:
    return Call(f"id-{n}", 1, "sync", "gw", 0, 10_000, "invoke", b"", b"x" * size)


def submit(dispatcher: Dispatcher, call: Call, wait_s: float) -> asyncio.Future[Answer]:
    """Submit, with a future for what `done` is told."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(end: Answer | JiffyError) -> None:
        assert not future.done(), "told once"
        future.set_exception(end) if isinstance(end, JiffyError) else future.set_result(end)

    dispatcher.submit("inv", call, wait_s, done)
    return future


@asynccontextmanager
async def dispatching(grace_s: float = 2.0, patience_s: float = 3.0) -> AsyncIterator[tuple[Dispatcher, DrivenQueue]]:
    queue = DrivenQueue()
    dispatcher = Dispatcher(queue, "gw", grace_s=grace_s, patience_s=patience_s)
    loops = Loops(*dispatcher.loops())
    loops.start()
    try:
        yield dispatcher, queue
    finally:
        await loops.stop()
        dispatcher.give_up()
        assert not loops.failed.is_set()


async def test_calls_of_one_tick_leave_in_one_batch_and_each_gets_its_own_answer() -> None:
    async with dispatching() as (dispatcher, queue):
        futures = [submit(dispatcher, call(n), 5) for n in range(20)]
        replies = [answer(call(n), payload=b"%d" % n) for n in reversed(range(20))]
        queue.answers.put_nowait([wire.pack(reply) for reply in replies])
        assert [(await future).payload for future in futures] == [b"%d" % n for n in range(20)]
        assert [len(batch) for batch in queue.batches] == [20]
        assert {sent.stream for sent in queue.batches[0]} == {keys.calls("inv")}
        assert len(dispatcher) == 0


async def test_while_a_batch_is_on_its_way_the_next_one_gathers() -> None:
    async with dispatching() as (dispatcher, queue):
        queue.gate.clear()
        first = submit(dispatcher, call(0), 5)
        await queue.sending.wait()
        rest = [submit(dispatcher, call(n), 5) for n in range(1, BATCH_MAX + 50)]
        queue.gate.set()
        queue.answers.put_nowait([wire.pack(answer(call(n))) for n in range(BATCH_MAX + 50)])
        await asyncio.gather(first, *rest)
        await queue.took(BATCH_MAX + 50)
        assert [len(batch) for batch in queue.batches] == [1, BATCH_MAX, 49]


async def test_large_payloads_do_not_travel_in_one_command() -> None:
    async with dispatching() as (dispatcher, queue):
        for n in range(6):
            submit(dispatcher, call(n, 6_000_000), 5)
        await queue.took(6)
        assert [len(batch) for batch in queue.batches] == [2, 2, 2]


async def test_a_call_without_an_answer_ends_at_its_deadline_with_its_id() -> None:
    async with dispatching(grace_s=0.0) as (dispatcher, queue):
        late = submit(dispatcher, call(1), 0.01)
        longer = submit(dispatcher, call(2), 60)
        with pytest.raises(DeadlineExceeded, match="id-1"):
            await late
        assert not longer.done()
        queue.answers.put_nowait([wire.pack(answer(call(1))), b"rubbish", wire.pack(answer(call(2)))])
        assert (await longer).invocation == "id-2", "neither a late answer nor rubbish stops the reader"


async def test_a_queue_that_takes_nothing_is_told_at_once() -> None:
    async with dispatching() as (dispatcher, queue):
        queue.send_fails = True
        with pytest.raises(Unavailable) as caught:
            await submit(dispatcher, call(1), 60)
        assert caught.value.retry_after_s
        queue.send_fails = False
        submit(dispatcher, call(3), 60)
        await queue.took(1)  # it works again without a restart


async def test_a_queued_call_outlives_a_short_loss_of_the_queue() -> None:
    async with dispatching() as (dispatcher, queue):
        queue.receive_fails = True
        queue.answers.put_nowait([])  # ends the look that has begun
        future = submit(dispatcher, call(1), 60)
        queue.answers.put_nowait([wire.pack(answer(call(1)))])
        queue.receive_fails = False
        assert isinstance(await future, Answer)


async def test_a_queue_that_stays_lost_is_told_to_those_who_wait() -> None:
    async with dispatching(patience_s=0.0) as (dispatcher, queue):
        queue.receive_fails = True
        queue.answers.put_nowait([])
        with pytest.raises(Unavailable, match="lost"):
            await submit(dispatcher, call(2), 60)


async def test_a_call_that_was_given_up_before_it_was_sent_is_not_sent() -> None:
    async with dispatching(patience_s=0.0) as (dispatcher, queue):
        queue.gate.clear()
        sent = submit(dispatcher, call(0), 60)
        await queue.sending.wait()
        gathered = submit(dispatcher, call(1), 60)
        queue.receive_fails = True
        queue.answers.put_nowait([])
        for future in (sent, gathered):
            with pytest.raises(Unavailable, match="lost"):
                await future
        queue.gate.set()
        submit(dispatcher, call(2), 60)
        await queue.took(2)
        assert [len(batch) for batch in queue.batches] == [1, 1]
        assert wire.unpack(Call, queue.batches[1][0].call).invocation == "id-2"


async def test_stopping_tells_everyone_whether_his_call_may_have_run() -> None:
    async with dispatching() as (dispatcher, queue):
        queue.gate.clear()
        sent = submit(dispatcher, call(0), 60)
        await queue.sending.wait()
        gathered = submit(dispatcher, call(1), 60)
        dispatcher.give_up()
        with pytest.raises(PlatformError, match=r"id-0 ended; it may have run") as told:
            await sent
        assert (told.value.status, told.value.retry_after_s) == (502, None)
        with pytest.raises(Unavailable, match="stopping"):
            await gathered
        queue.gate.set()


@pytest.mark.redis
async def test_large_answers_are_read_a_few_at_a_time_and_small_ones_many(redis_url: str) -> None:
    store = Store(redis_url)
    large, small = b"x" * limits.PAYLOAD_MAX_BYTES, b"x" * 100
    few = ANSWERS_MAX_BYTES // limits.PAYLOAD_MAX_BYTES
    async with Redis.from_url(redis_url) as redis:
        for _ in range(few + 1):
            await redis.rpush(keys.answers("gw"), large)
        assert [len(await store.receive("gw")) for _ in range(2)] == [few, 1]
        await redis.rpush(keys.answers("gw"), *[small] * 4 * BATCH_MAX)
        counts = [len(await store.receive("gw")) for _ in range(7)]
    assert counts[0] == few and counts[-1] == BATCH_MAX
    await store.close()
