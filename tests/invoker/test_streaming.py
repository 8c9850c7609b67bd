"""An answer that goes out piece by piece: from a twin of an instance to a real queue, and what comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from invoker import streaming
from invoker.instance import Pieces
from invoker.sandbox import Reply
from jiffy.contract import keys, limits
from jiffy.contract.messages import Piece, Receipt
from jiffy.contract.wire import pack, unpack

from .fakes import FakeInstance, revision
from .onehost import CALLS, OneHost

pytestmark = pytest.mark.redis
STREAMING = revision(stream=True)


class Caller:
    """One streaming call that runs, and its gateway's view of it."""

    def __init__(self, host: OneHost) -> None:
        self.host = host
        self.end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        host.world.function = lambda _: self.end

    async def begin(self) -> None:
        self.call = await self.host.send(STREAMING, stream=True)
        async with asyncio.timeout(10):
            while not (self.host.world.sandboxes and self._instances() and self._instances()[0].pieces):
                await asyncio.sleep(0.005)
        self.instance = self._instances()[0]
        assert self.instance.pieces is not None
        self.pieces: Pieces = self.instance.pieces

    def _instances(self) -> list[FakeInstance]:
        return [one for sandbox in self.host.world.sandboxes for one in sandbox.instances]

    async def piece(self) -> Piece:
        popped: Any = await self.host.redis.blpop([keys.answers("gw")], timeout=10)
        return unpack(Piece, popped[1])

    async def receipt(self, taken_bytes: int, gone: bool = False) -> None:
        receipt = Receipt(self.call.invocation, 1, taken_bytes, gone)
        await self.host.redis.rpush(keys.receipts("inv-1"), pack(receipt))  # type: ignore[misc]

    async def told(self, *words: str) -> None:
        async with asyncio.timeout(10):
            while self.instance.told != list(words):
                await asyncio.sleep(0.005)


async def test_pieces_go_out_in_order_and_those_that_wait_for_one_another_go_together(host: OneHost) -> None:
    caller = Caller(host)
    await caller.begin()
    caller.pieces.take(True, b'{"statusCode":200}')
    caller.pieces.take(False, b"a")
    caller.pieces.take(False, b"b")
    caller.pieces.take(False, b"b")
    first, second = await caller.piece(), await caller.piece()
    assert (first.number, first.invoker, first.head, first.body) == (0, "inv-1", b'{"statusCode":200}', b"a")
    assert (second.number, second.head, second.body) == (1, b"", b"bb")
    caller.pieces.take(False, b"c")
    caller.pieces.take(False, b"d")
    caller.end.set_result(Reply(True, b"", 1000))
    body, number = b"", 0
    while len(body) < 2:  # what is left goes before the answer
        piece = await caller.piece()
        body, number = body + piece.body, piece.number
    answer = await host.answer()
    assert body == b"cd"
    assert (answer.outcome, answer.pieces, answer.payload) == ("ok", number + 1, b"")
    assert [usage.bytes_out for usage in await host.usages()] == [5]


async def test_an_instance_hears_what_was_taken_and_may_not_send_far_beyond(host: OneHost) -> None:
    caller = Caller(host)
    await caller.begin()
    piece = b"x" * limits.PIECE_MAX_BYTES
    for _ in range(limits.WINDOW_BYTES // len(piece) + 1):
        assert caller.pieces.take(False, piece)
    await caller.receipt(1000)
    await caller.receipt(len(piece))
    await caller.receipt(1000)
    await caller.told("taken 1000", f"taken {len(piece)}")
    assert caller.pieces.take(False, piece)
    assert not caller.pieces.take(False, piece), "an agent that does not wait is none of ours"
    caller.end.set_result(Reply(True, b"", 1000))


@pytest.mark.parametrize("head", [True, False])
async def test_an_answer_has_one_head_and_it_comes_first(host: OneHost, head: bool) -> None:
    caller = Caller(host)
    await caller.begin()
    assert caller.pieces.take(head, b"{}")
    assert not caller.pieces.take(True, b"{}")
    caller.end.set_result(Reply(True, b"", 1000))


async def test_a_caller_who_hung_up_gets_nothing_more_and_the_function_is_told(host: OneHost) -> None:
    caller = Caller(host)
    await caller.begin()
    caller.pieces.take(False, b"a")
    await caller.piece()
    await caller.receipt(1, gone=True)
    await caller.told("cancel")
    piece = b"x" * limits.PIECE_MAX_BYTES
    for _ in range(limits.WINDOW_BYTES // len(piece)):
        assert caller.pieces.take(False, piece), "it was on its way"
    assert not caller.pieces.take(False, piece * 2), "the window is closed for good"
    caller.end.set_result(Reply(True, b"", 1000))
    await host.answer()
    assert "the stream was ended after 1 bytes: the caller hung up" in (await host.logs())[-1].text.decode()
    assert [usage.bytes_out for usage in await host.usages()] == [1]


async def test_what_was_streamed_explains_no_time_beside_the_stamps(host: OneHost) -> None:
    caller = Caller(host)
    await caller.begin()
    caller.pieces.take(False, b"x" * 1000)
    caller.end.set_result(Reply(True, b"", 1000))
    await caller.piece()
    await host.answer()
    assert caller.instance.size == len(caller.call.payload)


async def test_a_gateway_that_falls_silent_is_gone_with_its_callers(
    host: OneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming.limits, "RECEIPT_LOST_S", 0.01)
    caller = Caller(host)
    await caller.begin()
    caller.pieces.take(False, b"a")
    await caller.told("cancel")
    caller.pieces.take(False, b"b")
    await caller.receipt(1)  # it was only paused
    caller.end.set_result(Reply(True, b"", 1000))
    await caller.piece()
    assert (await host.answer()).pieces == 2, "more than it was sent: it must not take this for whole"
    assert caller.instance.told == ["cancel"]
    assert "the gateway of the caller was lost" in (await host.logs())[-1].text.decode()


async def test_pieces_of_a_call_that_others_were_given_are_not_written(host: OneHost) -> None:
    caller = Caller(host)
    await caller.begin()
    caller.pieces.take(False, b"a")
    assert (await caller.piece()).body == b"a"
    [entry] = await host.redis.xpending_range(CALLS, keys.GROUP, "-", "+", 10)
    await host.redis.xack(CALLS, keys.GROUP, entry["message_id"])
    caller.pieces.take(False, b"b")
    caller.end.set_result(Reply(True, b"", 1000))
    host.world.function = lambda _: Reply(True, b"7", 1)
    after = await host.send()
    assert (await host.answer()).invocation == after.invocation, "neither a piece nor its answer came before"


async def test_more_than_any_answer_may_have_is_not_taken(host: OneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.limits, "STREAM_MAX_BYTES", 10)
    caller = Caller(host)
    await caller.begin()
    assert caller.pieces.take(False, b"x" * limits.PIECE_MAX_BYTES)
    assert not caller.pieces.take(False, b"x" * 20)
    caller.end.set_result(Reply(True, b"", 1000))
