"""uvicorn's HTTP protocol with two changes: bounds on the head of a request, which uvicorn would await without end, and
a short way for calls.

A request that came whole in one piece, as nearly all do, is offered to the app's `whole` before a task is made for it.
If that takes it, it calls back with the response, which leaves in one write; tasks, ASGI messages and a write per part
would cost as much as all the rest of the gateway's work for a call. Everything else goes uvicorn's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.asgi import TRANSPORT, Response, Scope, framed
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


class App(Protocol):
    """What the short way needs of the app, beside ASGI."""

    def whole(self, scope: Scope, body: bytes, respond: Callable[[Response], None]) -> bool: ...


class GatewayHttp(HttpToolsProtocol):
    """See the module. Bytes are counted only while a head is incomplete: an ordinary request costs one comparison."""

    _parsing = False
    _completed = False  # a request, in the piece that is being parsed
    _head_open = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _arriving: RequestResponseCycle | None = None  # its head is here, and it is not clear yet how it comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        # A connection that never says anything is closed like one that has been idle for long.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        self._parsing, self._completed = True, False
        super().data_received(data)
        self._parsing = False
        if self._arriving is not None:  # the rest of its body is still to come
            cycle, self._arriving = self._arriving, None
            self._ordinary(cycle)
        if self._head_open:
            if not self._completed:  # else other requests lie before it in this piece, which is bounded
                self._head_bytes += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_MAX_S, self._too_slow)
            if self._head_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
                self.transport.write(_ANSWER)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._head_open, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._cancel_head_timer()
        if self.parser.should_upgrade():
            # What follows is of another protocol for the parser: a body would be taken for the next request.
            if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
                raise ValueError("a request that offers an upgrade has a body")
            super().on_headers_complete()
            self.cycle.keep_alive = False
        else:
            super().on_headers_complete()

    # --- the short way ----------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if not self._parsing:  # the next in a pipeline, and we are in the midst of answering the one before it
            self.loop.call_soon(self._start, cycle)
        elif cycle.more_body:
            self._arriving = cycle
        else:
            self._start(cycle)

    def _start(self, cycle: RequestResponseCycle) -> None:
        """The short way if it can be gone: a client that does not read its answers waits for them on uvicorn's."""
        if self.transport.is_closing():
            return
        if cycle.more_body or self.flow.write_paused or not self._whole(cycle):
            self._ordinary(cycle)

    def _ordinary(self, cycle: RequestResponseCycle) -> None:
        """uvicorn's way, with a means to end a connection amid an answer (asgi.cut)."""
        cast(Scope, cycle.scope)["extensions"] = {TRANSPORT: self.transport}
        super()._start_asgi_task(cycle, self.app)

    def _whole(self, cycle: RequestResponseCycle) -> bool:
        scope, body = cast(Scope, cycle.scope), bytes(cycle.body)
        return cast(App, self.app).whole(scope, body, partial(self._respond, cycle))

    def on_message_complete(self) -> None:
        self._completed = True
        super().on_message_complete()
        if self._arriving is not None:
            cycle, self._arriving = self._arriving, None
            self._start(cycle)

    def _respond(self, cycle: RequestResponseCycle, response: Response) -> None:
        if cycle.disconnected or self.transport.is_closing():
            return
        status, headers, body = framed(response)
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        if cycle.scope["method"] == "HEAD":
            body = b""
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    # --- bounds -----------------------------------------------------------------------------------------------

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
        if not self.transport.is_closing():
            self.transport.write(_BAD_ANSWER)
            self.transport.close()
