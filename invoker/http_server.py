"""An HTTP server in a sandbox, asked one event at a time: what runtime_api.py is to clients of the Lambda Runtime API.

The invoker is the client here: it connects to the server's port inside the sandbox's network namespace, and the server
is ready as soon as somebody listens there. What an event is as a request, and a response as a result: exchange.py. The
peer is hostile: heads and bodies are bounded as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import httptools

from jiffy.contract import limits
from jiffy.contract.errors import SandboxFailed

from . import exchange, netns
from .instance import STATUS_MAX_S
from .refusal import error_json
from .runtime_api import Event, Owner

HOST = "127.0.0.1"
HEADERS_MAX_BYTES = limits.HEADERS_MAX_BYTES
BODY_MAX_BYTES = limits.PAYLOAD_MAX_BYTES
REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")  # what a server may get twice: idempotent (RFC 9110)
CONNECT_STEP_S, CONNECT_STEP_MAX_S = 0.005, 0.1  # until somebody listens


class HttpServer:
    """See the module. It has the same doors as RuntimeApi: `open`, `hand_out`, `close`."""

    def __init__(self, owner: Owner, port: int) -> None:
        self._owner = owner
        self._port = port
        self._pid = 0
        self._connection: _Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def env(self) -> dict[str, str]:
        """What the server finds in its environment."""
        return {"PORT": str(self._port)}

    async def open(self, pid: int) -> None:
        """Wait, from now on, for the server in the network namespace of `pid` to listen."""
        self._pid = pid
        self._task = asyncio.create_task(self._ready())

    async def _ready(self) -> None:
        step = CONNECT_STEP_S
        while not self._closed:
            with contextlib.suppress(OSError, SandboxFailed):
                await self._connect()
                self._owner.asked()
                return
            await asyncio.sleep(step)
            step = min(step * 1.5, CONNECT_STEP_MAX_S)

    async def _connect(self) -> _Connection:
        sock = await netns.connect(self._pid, HOST, self._port)
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, sock=sock)
        self._connection = connection
        return connection

    def hand_out(self, event: Event) -> None:
        """Ask it."""
        self._task = asyncio.create_task(self._serve(event))

    async def _serve(self, event: Event) -> None:
        try:
            asked = exchange.request(event.id, event.payload, self._port)
        except ValueError as exc:
            return self._owner.answered(False, error_json("Function.BadEvent", f"it is no request: {exc}"), last=False)
        self._owner.taken()
        try:
            response = await self._ask(asked)
        except (OSError, SandboxFailed, EOFError) as exc:
            await asyncio.sleep(STATUS_MAX_S)  # a process that ended is told as such, and by then has been
            text = f"the server closed the connection instead of answering: {exc}".removesuffix(": ")
            return self._owner.answered(False, error_json("Function.NoResponse", text), last=False)
        except exchange.TooLong as exc:
            self._drop()
            return self._owner.answered(False, error_json("Function.ResponseSizeTooLarge", str(exc)), last=False)
        ok, payload = exchange.result(asked, response)
        return self._owner.answered(ok, payload, last=False)

    async def _ask(self, asked: exchange.Request) -> exchange.Response:
        """Over the connection there is, or a new one where the server closed that between two requests."""
        used = self._connection
        if used is not None and used.open:
            with contextlib.suppress(EOFError):
                return await used.ask(asked)
            if used.heard or asked.method not in REPEATABLE:
                raise EOFError
        connection = await self._connect()
        return await connection.ask(asked)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def close(self) -> None:
        self._closed = True
        self._drop()
        if self._task is not None:
            self._task.cancel()


class _Connection(asyncio.Protocol):
    """One connection, one request at a time. The callbacks of httptools' parser are named on_…"""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._awaited: asyncio.Future[exchange.Response] | None = None
        self._asked: exchange.Request | None = None
        self.heard = False  # of the answer that is awaited

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, asked: exchange.Request) -> exchange.Response:
        """Raises EOFError when the server closes the connection instead, exchange.TooLong."""
        if self._transport is None:
            raise EOFError
        self._awaited = asyncio.get_running_loop().create_future()
        self._asked, self.heard = asked, False
        self._parser = httptools.HttpResponseParser(self)
        self._start()
        self._transport.write(asked.head + asked.body)
        return await self._awaited

    def _start(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._ends = False  # the body ends where the connection does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a TCP connection has no other

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._ends:
            self._complete()
        self._fail(EOFError(str(exc or "")))

    def data_received(self, data: bytes) -> None:
        if self._awaited is None or self._awaited.done():
            return self.abort()  # it speaks without having been asked
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as exc:
            self._fail(exc.__context__ if isinstance(exc.__context__, exchange.TooLong) else EOFError(str(exc)))
            self.abort()
        except httptools.HttpParserError as exc:
            if not self._awaited.done():
                self._fail(EOFError(f"it speaks no HTTP: {exc}"))
            self.abort()
        return None

    # --- the parser -------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self._start()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > HEADERS_MAX_BYTES:
            raise exchange.TooLong(f"the response has headers of more than {HEADERS_MAX_BYTES} bytes")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._size = 0
        named = dict(self._headers)
        counted = b"content-length" in named or b"chunked" in named.get(b"transfer-encoding", b"").lower()
        status = self._parser.get_status_code()
        self._ends = not counted and status >= 200 and status not in (204, 304)
        if self._asked is not None and self._asked.method == "HEAD" and status >= 200:
            self._complete()  # whatever length it states, no body follows

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > BODY_MAX_BYTES:
            raise exchange.TooLong(f"the response has a body of more than {BODY_MAX_BYTES} bytes")
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:  # else the answer is still to come
            self._complete()

    def _complete(self) -> None:
        self._ends = False
        if self._awaited is not None and not self._awaited.done():
            status = self._parser.get_status_code()
            self._awaited.set_result(exchange.Response(status, self._headers, b"".join(self._body)))
            head = self._asked is not None and self._asked.method == "HEAD"
            if self._transport is not None and (head or not self._parser.should_keep_alive()):
                self._transport.close()

    def _fail(self, why: BaseException) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(why)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
