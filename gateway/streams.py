"""Answers that come piece by piece: from the list of answers to who writes them, and word of how far they have come.

    answers:{gateway} ──Piece──▶ dispatch.py ──▶ Stream ──▶ routes/streamed.py ──▶ the caller's connection
    receipts:{invoker} ◀──Receipt── what the connection took; that the caller hung up; every RECEIPT_S that we are here

What is held here is counted by admission.py, and bounded twice: an invoker sends no more than limits.WINDOW_BYTES ahead
of what was taken, and who gets no room is broken off. How a piece comes here: invoker/streaming.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from typing import Any

from gateway.admission import Admission
from gateway.loops import Loop
from gateway.outbox import Outbox
from gateway.store import translated
from jiffy.contract import keys, limits, wire
from jiffy.contract.errors import JiffyError, PlatformError, Unavailable
from jiffy.contract.messages import Answer, Piece, Receipt

TELL_BYTES = limits.WINDOW_BYTES // 4  # taken since the last receipt
PIECE_BYTES = 300  # of memory that a piece takes beside what is in it: there may be one for each byte

End = Answer | JiffyError


class Stream:
    """One answer. It is there from before its call is sent until that has ended."""

    def __init__(self, invocation: str, streams: Streams) -> None:
        self.invocation = invocation
        self._streams = streams
        self._items: deque[Piece | End | None] = deque()
        self._some = asyncio.Event()
        self._seen = 0  # pieces
        self._last: Piece | None = None  # says who sends them
        self._taken_bytes = self._told_bytes = 0
        self._shut = False  # nobody takes any more

    async def next(self) -> Piece | End | None:
        """What comes next; the last is how the call ended, or None: the caller hung up."""
        while not self._items:
            self._some.clear()
            await self._some.wait()
        item = self._items.popleft()
        if isinstance(item, Piece):
            self._streams.admission.held -= _held(item)
        return item

    def took(self, size: int) -> None:
        """The caller's connection took so many bytes more."""
        self._taken_bytes += size
        if self._taken_bytes - self._told_bytes >= TELL_BYTES:
            self.tell()

    def hang_up(self) -> None:
        """Nobody takes any more; what has come is forgotten."""
        self._streams.admission.held -= sum(_held(item) for item in self._items if isinstance(item, Piece))
        self._items.clear()
        self._shut_with(None)

    def ended(self, end: End) -> None:
        """How its call ended: a Done of the dispatcher's."""
        self._streams.forget(self.invocation)
        if isinstance(end, Answer) and end.pieces > self._seen:
            end = PlatformError("a piece of the answer was lost")
        if not self._shut:
            self._put(end)

    def arrived(self, piece: Piece) -> None:
        if piece.number < self._seen:
            return  # a resend
        self._last = piece
        if self._shut:
            self.tell()  # it shut before we knew whom to tell
            return
        try:
            if piece.number > self._seen:
                raise PlatformError("a piece of the answer was lost")
            self._streams.admission.hold(_held(piece))
        except JiffyError as exc:
            self._shut_with(exc)
            return
        self._seen += 1
        self._put(piece)

    def tell(self) -> None:
        """Let the invoker know where we are, if we know who it is."""
        piece = self._last
        if piece is not None:
            self._told_bytes = self._taken_bytes
            receipt = Receipt(self.invocation, piece.attempt, self._taken_bytes, self._shut)
            self._streams.tell(piece.invoker, receipt)

    def _shut_with(self, item: JiffyError | None) -> None:
        if not self._shut:
            self._shut = True
            self._put(item)
            self.tell()

    def _put(self, item: Piece | End | None) -> None:
        self._items.append(item)
        self._some.set()


def _held(piece: Piece) -> int:
    """Bytes of memory that it takes while it waits here."""
    return PIECE_BYTES + len(piece.head) + len(piece.body)


class Streams:
    """All of one gateway. `client` talks to Redis (store.Store.client)."""

    def __init__(self, client: Any, admission: Admission) -> None:
        self.admission = admission
        self._client = client
        self._open: dict[str, Stream] = {}  # by invocation
        self._receipts: Outbox[tuple[str, Receipt]] = Outbox()

    def loops(self) -> tuple[Loop, ...]:
        return self._send, self._remind

    def open(self, invocation: str) -> Stream:
        """Expect pieces of this call, until the stream is told how it ended."""
        stream = self._open[invocation] = Stream(invocation, self)
        return stream

    def forget(self, invocation: str) -> None:
        self._open.pop(invocation, None)

    def arrived(self, data: bytes) -> None:
        """Something came that is no Answer."""
        with contextlib.suppress(PlatformError):  # nobody's
            piece = wire.unpack(Piece, data)
            stream = self._open.get(piece.invocation)
            if stream is not None:
                stream.arrived(piece)

    def tell(self, invoker: str, receipt: Receipt) -> None:
        self._receipts.add((invoker, receipt))

    async def _send(self) -> None:
        while True:
            batch = await self._receipts.take()
            by_invoker: dict[str, list[bytes]] = defaultdict(list)
            for invoker, receipt in batch:
                by_invoker[invoker].append(wire.pack(receipt))
            pipe = self._client.pipeline(transaction=False)
            for invoker, packed in by_invoker.items():
                pipe.rpush(keys.receipts(invoker), *packed)
                pipe.expire(keys.receipts(invoker), limits.ANSWERS_KEEP_S)
            with contextlib.suppress(Unavailable, PlatformError), translated():  # the next one says all that these did
                await pipe.execute()

    async def _remind(self) -> None:
        while True:
            await asyncio.sleep(limits.RECEIPT_S)
            for stream in list(self._open.values()):
                stream.tell()
