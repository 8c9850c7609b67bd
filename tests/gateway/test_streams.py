"""Answers that come piece by piece, as a gateway takes them; the invoker's part is played by the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.admission import Admission
from gateway.loops import Loops
from gateway.streams import PIECE_BYTES, TELL_BYTES, Streams
from jiffy.contract import keys, wire
from jiffy.contract.errors import PlatformError, Unavailable
from jiffy.contract.messages import Answer, Piece, Receipt

pytestmark = pytest.mark.redis
ANSWER = Answer("i", 1, "ok", b"", False, 1, 100, 0, 0, 0)


def piece(number: int, body: bytes = b"x") -> bytes:
    return wire.pack(Piece("i", 1, number, "inv-1", b'{"statusCode":200}' if not number else b"", body))


@contextlib.asynccontextmanager
async def sending(redis_url: str, held_max: int = 10_000) -> AsyncIterator[tuple[Streams, Redis]]:
    redis = Redis.from_url(redis_url)
    streams = Streams(redis, Admission(held_max=held_max))
    loops = Loops(*streams.loops())
    loops.start()
    try:
        yield streams, redis
    finally:
        await loops.stop()
        await redis.aclose()


async def receipt(redis: Redis) -> Receipt:
    popped = await redis.blpop([keys.receipts("inv-1")], timeout=10)  # type: ignore[misc]
    return wire.unpack(Receipt, popped[1])


async def test_pieces_come_in_order_and_resent_ones_once(redis_url: str) -> None:
    async with sending(redis_url) as (streams, _):
        stream = streams.open("i")
        for data in (piece(0, b"a"), piece(0, b"a"), piece(1, b"b"), b"rubbish", piece(1, b"b")):
            streams.arrived(data)
        assert streams.admission.held == 2 * PIECE_BYTES + len(b'{"statusCode":200}') + 2
        stream.ended(ANSWER._replace(pieces=2))
        bodies = [one.body for one in (await stream.next(), await stream.next()) if isinstance(one, Piece)]
        assert bodies == [b"a", b"b"] and await stream.next() == ANSWER._replace(pieces=2)
        assert streams.admission.held == 0
        streams.arrived(piece(2))  # of a call that is over: nobody's


async def test_a_lost_piece_breaks_it_off(redis_url: str) -> None:
    async with sending(redis_url) as (streams, redis):
        stream = streams.open("i")
        streams.arrived(piece(0))
        streams.arrived(piece(2))
        assert isinstance(await stream.next(), Piece) and isinstance(await stream.next(), PlatformError)
        assert (await receipt(redis)).gone
        last = streams.open("i")
        streams.arrived(piece(0))
        last.ended(ANSWER._replace(pieces=2))
        assert isinstance(await last.next(), Piece) and isinstance(await last.next(), PlatformError)


async def test_what_the_connection_took_is_told(redis_url: str) -> None:
    async with sending(redis_url) as (streams, redis):
        stream = streams.open("i")
        streams.arrived(piece(0))
        stream.took(TELL_BYTES - 1)
        stream.took(1)
        assert await receipt(redis) == Receipt("i", 1, TELL_BYTES, False)


async def test_who_hangs_up_before_the_first_piece_is_told_of_with_it(redis_url: str) -> None:
    async with sending(redis_url) as (streams, redis):
        stream = streams.open("i")
        waiting = asyncio.ensure_future(stream.next())
        stream.hang_up()
        assert await waiting is None
        streams.arrived(piece(0))
        assert (await receipt(redis)).gone and streams.admission.held == 0


async def test_pieces_that_find_no_room_break_it_off(redis_url: str) -> None:
    async with sending(redis_url, held_max=3 * PIECE_BYTES) as (streams, redis):
        stream = streams.open("i")
        streams.arrived(piece(0, b"x" * 8))
        streams.arrived(piece(1, b"x" * 2 * PIECE_BYTES))
        assert isinstance(await stream.next(), Piece) and isinstance(await stream.next(), Unavailable)
        assert (await receipt(redis)).gone and streams.admission.held == 0
