"""Answers that go out piece by piece, no faster than their callers take them.

    instance ──frame──▶ Stream: gathers while its last piece is on its way ──Piece──▶ answers:{gateway}
    receipts:{invoker} ──Receipt──▶ Stream ──frame──▶ agent: beyond WINDOW_BYTES that nobody took it waits where the
                                    function yields; when the caller is gone, it ends the function there

The socket itself is always read: what a function has ended with is known at once, and billed until then.

A Piece goes with the completions (completions.py): fenced like them, resent like them, in one order with them. So no
piece follows its Answer, and none of an attempt that was taken from us. A gateway that says nothing for
limits.RECEIPT_LOST_S is gone, and its caller with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from jiffy.contract import limits
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Piece, Receipt
from jiffy.contract.wire import pack, unpack

from .completions import Completion

log = logging.getLogger(__name__)

WAIT_S = 1.0  # for receipts; nothing waits for it to return
AGAIN_S = 0.2


class Source(Protocol):
    """The instance whose answer it is."""

    def credit(self, total: int) -> None: ...
    def cancel(self) -> None: ...


class Queue(Protocol):
    """Where receipts come from: store.Store."""

    async def receipts(self, wait_s: float) -> list[bytes]: ...


class Stream:
    """One answer. `add` takes what is to be written."""

    def __init__(self, blank: Completion, piece: Piece, source: Source, add: Callable[[Completion], None]) -> None:
        self._blank = blank
        self._next = piece  # its number is how many were sent
        self._source = source
        self._add = add
        self._head = b""
        self._body = bytearray()
        self._sending = False
        self._begun = False
        self._came_bytes = self._taken_bytes = 0  # of its body
        self.bytes = 0  # of its body, until nobody took any more
        self.heard_us = 0  # of its gateway, once it knows of us; 0: it does not
        self.gone = ""  # why nobody takes any more

    @property
    def invocation(self) -> str:
        return self._next.invocation

    @property
    def pieces(self) -> int:
        """That make it whole: those that were sent, and one that never comes where it was ended before its end."""
        return self._next.number + bool(self.gone)

    def take(self, head: bool, data: bytes) -> bool:
        """As Pieces.take: False when it is more than any answer may have."""
        if head and self._begun:
            return False
        self._begun = True
        self._came_bytes += 0 if head else len(data)
        if self._came_bytes > limits.STREAM_MAX_BYTES + limits.PIECE_MAX_BYTES:  # the agent ends it before
            return False
        if self._came_bytes - self._taken_bytes > limits.WINDOW_BYTES + limits.PIECE_MAX_BYTES:  # it waits before
            return False
        if self.gone:
            return True
        self.bytes = self._came_bytes
        if head:
            self._head = data
            asyncio.get_running_loop().call_soon(self._go)  # the first piece has often come with it
        else:
            self._body += data
            self._go()
        return True

    def _go(self) -> None:
        if not self._sending and (self._body or self._head):
            self._send()

    def _send(self) -> None:
        piece = self._next._replace(head=self._head, body=bytes(self._body))
        self._next = piece._replace(number=piece.number + 1, head=b"", body=b"")
        self._head = b""
        self._body.clear()
        self._sending = True
        self._add(self._blank._replace(answer=pack(piece)))

    def written(self, now_us: int) -> None:
        """The last piece got through."""
        self._sending = False
        self.heard_us = self.heard_us or now_us
        self._go()

    def received(self, receipt: Receipt, now_us: int) -> None:
        if self.gone:
            return  # its gateway was taken for lost: what is missing in between makes this one of no use
        self.heard_us = now_us
        if receipt.gone:
            self.cancel("the caller hung up")
        elif receipt.taken_bytes > self._taken_bytes:
            self._taken_bytes = receipt.taken_bytes
            self._source.credit(receipt.taken_bytes)

    def cancel(self, why: str) -> None:
        if not self.gone:
            self.gone = why
            self._head = b""
            self._body.clear()
            self._source.cancel()

    def end(self) -> None:
        """The instance has answered or ended: send what is left, before the Answer."""
        if not self.gone and (self._body or self._head):
            self._send()


class Streams:
    """All that run on this host. Receipts are read only while there are any."""

    def __init__(self, queue: Queue, monotonic_us: Callable[[], int]) -> None:
        self._queue = queue
        self._now_us = monotonic_us
        self._open: dict[str, Stream] = {}  # by invocation
        self._task: asyncio.Task[None] | None = None

    def begin(self, stream: Stream) -> None:
        self._open[stream.invocation] = stream
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen())

    def end(self, stream: Stream) -> None:
        self._open.pop(stream.invocation, None)
        stream.end()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        while self._open:
            try:
                packed = await self._queue.receipts(WAIT_S)
            except PlatformError:
                packed = []
                await asyncio.sleep(AGAIN_S)
            now_us = self._now_us()
            for data in packed:
                with contextlib.suppress(PlatformError):  # another release's
                    self._received(unpack(Receipt, data), now_us)
            for stream in self._open.values():
                if stream.heard_us and now_us - stream.heard_us > limits.RECEIPT_LOST_S * 1e6:
                    stream.cancel("the gateway of the caller was lost")
        self._task = None

    def _received(self, receipt: Receipt, now_us: int) -> None:
        stream = self._open.get(receipt.invocation)
        if stream is not None:
            stream.received(receipt, now_us)
