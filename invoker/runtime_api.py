"""The Lambda Runtime API, served into one sandbox: how a program that is no agent gets its events and answers them.

HTTP/1.1 over connections from inside; the program is the client and asks for one event at a time. This module knows the
protocol and its order, program.py what follows from it. The peer is hostile: sizes are checked as bytes come, only the
answer to the event that is out is kept in memory, a connection has one request at a time, and whoever asks on and on
for what there is not is at its end.

Source of the contract: AWS Lambda, "Using the Lambda runtime API for custom runtimes", version 2018-06-01.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast

import httptools

from jiffy.contract import limits

from . import netns
from .refusal import error_json

HOST, PORT = "127.0.0.1", 9001  # as AWS Lambda has it
BASE = "/2018-06-01/runtime/"
LOAD = "/jiffy/load"  # for agents of ours that wait as stems: one more long poll, for the function
CONNECTIONS_MAX = 8  # a client needs one; each may leave an event unread
NOISE_MAX = 50  # refusals and connections, since it got an event, within NOISE_S: each costs this host a little
NOISE_S = 1.0
HEADERS_MAX_BYTES = 64 * 1024
RESULT_MAX_BYTES = limits.PAYLOAD_MAX_BYTES
ERROR_MAX_BYTES = 256 * 1024  # of an error's JSON: far above any stack trace
_ERROR_TYPE = b"lambda-runtime-function-error-type"
_ERROR_BODY = b"lambda-runtime-function-error-body"
_LAST = b"jiffy-last"  # an agent of ours: no event after this one, since the process ends


class Event(NamedTuple):
    """One event on its way in."""

    id: str
    payload: bytes
    deadline_ms: int  # since the epoch, on this host's clock
    arn: str


class Owner(Protocol):
    """Who is told."""

    def asked(self) -> None:
        """The program wants an event: it is ready."""

    def taken(self) -> None:
        """It has one now."""

    def answered(self, ok: bool, payload: bytes, *, last: bool) -> None:
        """It answered the one that it has: with a result, or error JSON. `last`: and is about to end."""

    def failed(self, error: bytes) -> None:
        """It says that it can't start."""

    def waits(self) -> None:
        """An agent of ours waits for its function."""

    def misused(self) -> None:
        """It makes nothing but noise: it is to end."""


class RuntimeApi:
    """See the module."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._event: Event | None = None  # that nobody asked for yet
        self._waiting: _Connection | None = None  # asks for one
        self._loading: _Connection | None = None
        self._out = ""  # the id of the event that is being worked on
        self._started = False  # the program asked for an event once, or said that it can't start
        self._noise, self._noise_until = 0, 0.0

    @property
    def env(self) -> dict[str, str]:
        """What a client finds in its environment."""
        return {"AWS_LAMBDA_RUNTIME_API": f"{HOST}:{PORT}"}

    async def open(self, pid: int) -> None:
        """Listen in the network namespace of `pid`. Raises SandboxFailed."""
        listener = await netns.listen(pid, HOST, PORT)
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=listener)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()

    # --- out --------------------------------------------------------------------------------------------------
    def load(self, function: bytes) -> None:
        """Give an agent that waits its function, as JSON."""
        if self._loading is not None:
            connection, self._loading = self._loading, None
            connection.reply(200, function)

    def hand_out(self, event: Event) -> None:
        """Give it to the program, now or when it asks."""
        self._event = event
        if self._waiting is not None:
            connection, self._waiting = self._waiting, None
            self._give(connection)

    def _give(self, connection: _Connection) -> None:
        assert self._event is not None
        event, self._event = self._event, None
        self._out = event.id
        self._noise = 0
        headers = {
            "Lambda-Runtime-Aws-Request-Id": event.id,
            "Lambda-Runtime-Deadline-Ms": str(event.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": event.arn,
            "Lambda-Runtime-Trace-Id": trace(event.id),
        }
        self.owner.taken()
        connection.reply(200, event.payload, headers)

    # --- in ---------------------------------------------------------------------------------------------------
    def room(self, method: str, path: str) -> int:
        """How long the body of such a request may be."""
        if method != "POST" or not path.startswith(BASE):
            return 0
        if self._out and path == f"{BASE}invocation/{self._out}/response":
            return RESULT_MAX_BYTES
        return ERROR_MAX_BYTES

    def gone(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if self._waiting is connection:
            self._waiting = None
        if self._loading is connection:
            self._loading = None

    def serve(self, connection: _Connection, request: Request) -> None:
        """Answer a whole request, now or later."""
        what = request.method, request.path.partition("?")[0]
        if what == ("GET", f"{BASE}invocation/next"):
            self._next(connection)
        elif what == ("GET", LOAD) and not self._started and self._loading is None:
            self._loading = connection
            self.owner.waits()
        elif what == ("POST", f"{BASE}init/error"):
            self._fail(connection, request)
        elif what[0] == "POST" and what[1].startswith(f"{BASE}invocation/"):
            self._answer(connection, request)
        else:
            connection.refuse(404, "InvalidRequest", f"there is no {request.method} {request.path[:100]}")

    def noise(self) -> None:
        """Count what brings no call on."""
        now = asyncio.get_running_loop().time()
        if now >= self._noise_until:
            self._noise, self._noise_until = 0, now + NOISE_S
        self._noise += 1
        if self._noise > NOISE_MAX:
            self.close()
            self.owner.misused()

    def _fail(self, connection: _Connection, request: Request) -> None:
        if self._started:
            return connection.refuse(403, "InvalidStateTransition", "it has started, or failed to, already")
        self._started = True
        connection.accept()
        return self.owner.failed(error_document(request))

    def _next(self, connection: _Connection) -> None:
        if self._out or self._waiting is not None:
            why = "an event is being worked on" if self._out else "another connection waits for an event"
            return connection.refuse(403, "InvalidStateTransition", f"{why}: one at a time")
        self._waiting = connection
        if not self._started:
            self._started = True
            self.owner.asked()
        if self._event is not None and self._waiting is connection:
            self._waiting = None
            self._give(connection)
        return None

    def _answer(self, connection: _Connection, request: Request) -> None:
        invocation, _, kind = request.path.removeprefix(f"{BASE}invocation/").partition("/")
        if kind not in ("response", "error"):
            return connection.refuse(404, "InvalidRequest", "answer with …/response or …/error")
        if not self._out or invocation != self._out:
            return connection.refuse(400, "InvalidRequestID", "this is not the event that is being worked on")
        self._out = ""
        failed = kind == "error" or _ERROR_TYPE in request.trailers
        if request.too_long and kind == "response":
            text = f"Exceeded maximum allowed payload size ({RESULT_MAX_BYTES} bytes)."
            connection.refuse(413, "RequestEntityTooLarge", text)
            self.owner.answered(False, error_json("Function.ResponseSizeTooLarge", text), last=False)
        elif failed:
            connection.accept()
            self.owner.answered(False, error_document(request), last=_LAST in request.headers)
        else:
            connection.accept()
            self.owner.answered(True, request.body, last=False)
        return None


class Request(NamedTuple):
    """One whole request."""

    method: str
    path: str
    headers: dict[bytes, bytes]  # lower-case names
    trailers: dict[bytes, bytes]  # what came behind a body in chunks
    body: bytes
    too_long: bool  # and so cut off


class _Connection(asyncio.Protocol):
    """One connection from inside. The callbacks of httptools' parser are named on_…"""

    def __init__(self, api: RuntimeApi) -> None:
        self._api = api
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._asks = False  # a whole request, that was not answered yet
        self._clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a TCP server has no other
        self._api.connections.add(self)
        if len(self._api.connections) > CONNECTIONS_MAX:
            self.abort()
        self._api.noise()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._api.gone(self)

    def pause_writing(self) -> None:
        """It does not read what it asked for: nor do we. An event comes here whole, so there is no more than one."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, ValueError):
            self.abort()

    # --- the parser -------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._asks or self._transport is None or self._transport.is_closing():
            raise ValueError("one request at a time")
        self._clear()

    def _clear(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._trailers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._body = bytearray()
        self._room = -1  # how much of a body is still taken; -1: the headers are not whole yet
        self._too_long = False

    def on_url(self, url: bytes) -> None:
        self._count(url)
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name + value)
        (self._headers if self._room < 0 else self._trailers)[name.lower()] = value

    def _count(self, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > HEADERS_MAX_BYTES:
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        self._room = self._api.room(self._method, self._path)
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if len(data) > self._room:
            self._too_long, self._room = True, 0
            self._body.clear()
        else:
            self._room -= len(data)
            self._body += data

    def on_message_complete(self) -> None:
        request = Request(self._method, self._path, self._headers, self._trailers, bytes(self._body), self._too_long)
        self._body.clear()
        self._asks = True
        self._api.serve(self, request)

    @property
    def _method(self) -> str:
        return str(self._parser.get_method().decode())

    @property
    def _path(self) -> str:
        return self._url.decode("latin-1")

    # --- answering --------------------------------------------------------------------------------------------
    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._asks = False
        if self._transport is None:
            return
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
        self._transport.write(head + body)
        if not self._parser.should_keep_alive():
            self._transport.close()

    def accept(self) -> None:
        self.reply(202, b'{"status":"OK"}')

    def refuse(self, status: int, kind: str, text: str) -> None:
        self.reply(status, json.dumps({"errorType": kind, "errorMessage": text}).encode())
        self._api.noise()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def trace(invocation: str) -> str:
    """A trace id in X-Ray's form, made from an invocation's (a UUID of version 7 begins with its time)."""
    digits = invocation.replace("-", "").ljust(32, "0")[:32]
    return f"Root=1-{digits[:8]}-{digits[8:]};Parent={digits[16:]};Sampled=0"


def error_document(request: Request) -> bytes:
    """The error JSON in a request; one of our own where there is none."""
    headers = request.headers | request.trailers
    body = request.body
    if _ERROR_BODY in request.trailers:
        try:
            body = base64.b64decode(request.trailers[_ERROR_BODY], validate=True)
        except binascii.Error:
            body = b""
    try:
        found = json.loads(body)
        if isinstance(found, dict) and isinstance(found.get("errorType"), str) and "errorMessage" in found:
            return body
    except (ValueError, RecursionError):
        found = None
    kind = headers.get(_ERROR_TYPE, b"").decode("latin-1")[:200] or "Function.Unknown"
    text = found.get("errorMessage") if isinstance(found, dict) else None
    return error_json(kind, text if isinstance(text, str) else body[:1000].decode(errors="replace"))
