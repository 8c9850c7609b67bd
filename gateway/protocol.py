"""uvicorn's HTTP protocol with two changes: bounds on the head of a request, which uvicorn would await without end, and
answers that leave in one write. Each write wakes the client, so a head sent alone costs a system call here and a
useless wake-up there.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jiffy.contract import limits

HEAD_MAX_S = 20.0  # from its first byte; a head comes in one piece unless somebody dawdles
HEAD_MAX_BYTES = limits.HEADERS_MAX_BYTES + 16 * 1024  # request line and line ends beside the headers
_TOO_LARGE = b'{"error": {"code": "invalid_request", "message": "the head of the request is too large"}}'
_ANSWER = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
)
_BAD = b'{"error": {"code": "invalid_request", "message": "the request is no HTTP"}}'
_BAD_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_BAD), _BAD)
)


class _Joined:
    """A transport that can hold back one write until the next. What uvicorn calls on a transport, and no more."""

    __slots__ = ("_held", "_joining", "_transport", "close", "is_closing")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._joining = False
        self._held = b""
        self.is_closing = transport.is_closing
        self.close = transport.close

    def join(self) -> None:
        """Hold the next write back until the one after it: a head, until its body. For use right before both."""
        self._joining = True

    def write(self, data: bytes) -> None:
        if self._joining:
            self._joining = False
            self._held = data
        elif self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._transport.write(data)


class BoundedHttp(HttpToolsProtocol):
    """Counts bytes only while a head is incomplete, so an ordinary request costs one comparison."""

    _head_open = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        joined = _Joined(self.transport)
        self.transport = cast(asyncio.Transport, joined)
        # A connection that never says anything is closed like one that has been idle for long.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._extensions: dict[str, Any] = {"jiffy.join": joined.join}

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_MAX_S, self._too_slow)
            if self._head_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
                self.transport.write(_ANSWER)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._head_open, self._head_bytes = True, 0
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._cancel_head_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        super().connection_lost(exc)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets our kind of error; no line in the log, or anyone could fill the disk."""
        self.transport.write(_BAD_ANSWER)
        self.transport.close()
