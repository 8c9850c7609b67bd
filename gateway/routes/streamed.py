"""Calls whose answers are written as they come, of functions with ``stream = true``.

At a function's URL the pieces are the body; what goes wrong after the head was sent can only break it off, so it does:
the connection ends amid the answer, after an ``event: error`` where it is server-sent events. To `jiffy invoke`
(``mode=stream``) all are lines of JSON, and the last one tells how the call ended. How pieces come here: streams.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.answer import Complain, ending, error_json, http_answer, raw_answer, refusal, streamed
from gateway.asgi import Receive, Response, Scope, Send, cut, more, reply, start
from gateway.catalog import Function
from gateway.cors import find
from gateway.dispatch import Done
from gateway.streams import End, Stream, Streams
from jiffy.contract.errors import JiffyError
from jiffy.contract.messages import Answer, Piece

LINES = (b"content-type", b"application/x-ndjson")
EVENTS = b"text/event-stream"
_BODILESS = frozenset({204, 205, 304})


class Finish(Protocol):
    """What becomes of a response before it is written."""

    async def whole(self, response: Response) -> Response: ...

    def head(self, response: Response) -> Response:
        """Of one whose body follows piece by piece: it is empty here."""


class Form(Protocol):
    """How an answer is written."""

    def whole(self, end: End) -> Response:
        """Of a call that ended without a piece."""

    def head(self, piece: Piece) -> tuple[bool, Response, bytes]:
        """(does more follow? the head, what of the body goes out with it)"""

    def piece(self, piece: Piece) -> bytes: ...

    def end(self, end: End) -> tuple[bool, bytes]:
        """(is it a good end? what goes out last)"""


class Body:
    """As HTTP: the pieces are the body."""

    def __init__(self, function: Function, invocation: str, complain: Complain) -> None:
        self._function, self._invocation, self._complain = function, invocation, complain
        self._events = self._bodiless = False

    def whole(self, end: End) -> Response:
        return http_answer(end, self._invocation, self._function, self._complain)

    def head(self, piece: Piece) -> tuple[bool, Response, bytes]:
        good, response = streamed(piece, self._function, self._complain)
        self._bodiless = response[0] in _BODILESS
        self._events = find(response[1], b"content-type").lower().startswith(EVENTS)
        return good, response, self.piece(piece)

    def piece(self, piece: Piece) -> bytes:
        return b"" if self._bodiless else piece.body

    def end(self, end: End) -> tuple[bool, bytes]:
        if isinstance(end, Answer) and end.outcome == "ok":
            return True, b""
        error = json.dumps(end.to_dict()["error"]).encode() if isinstance(end, JiffyError) else error_json(end)
        return False, b"\n\nevent: error\ndata: %b\n\n" % error if self._events else b""


class Lines:
    """As lines of JSON: the head, each piece, how it ended."""

    def __init__(self, function: Function, invocation: str, complain: Complain) -> None:
        self._function, self._invocation, self._complain = function, invocation, complain

    def whole(self, end: End) -> Response:
        if isinstance(end, JiffyError):
            return refusal(end, self._invocation, self._function)
        return raw_answer(end, self._function)

    def head(self, piece: Piece) -> tuple[bool, Response, bytes]:
        good, (status, headers, body) = streamed(piece, self._function, self._complain)
        own = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers if name[:6] != b"jiffy-"]
        known = [pair for pair in headers if pair[0][:6] == b"jiffy-"]
        if not good:
            return False, (200, [*known, (b"jiffy-function-error", b"Unhandled"), headers[-1]], body), b""
        line = _line({"head": {"status": status, "headers": own}})
        return True, (200, [*known, LINES], b""), line + self.piece(piece)

    def piece(self, piece: Piece) -> bytes:
        if not piece.body:
            return b""
        try:
            return _line({"text": piece.body.decode()})
        except UnicodeDecodeError:
            return _line({"base64": base64.b64encode(piece.body).decode()})

    def end(self, end: End) -> tuple[bool, bytes]:
        return True, _line(end.to_dict() if isinstance(end, JiffyError) else {"end": ending(end)})


class StreamedCall(NamedTuple):
    """Whose answer is written as it comes."""

    function: Function
    invocation: str
    submit: Callable[[Done], None]  # sends it, and has its end told; raises JiffyError
    warn: Callable[[Response, Function], Response]  # adds to the head what is to be said of budgets


class Streamed:
    """See the module."""

    def __init__(self, streams: Streams, complain: Complain) -> None:
        self._streams = streams
        self._complain = complain

    async def http(self, scope: Scope, receive: Receive, send: Send, call: StreamedCall, finish: Finish | None) -> None:
        """At a function's URL."""
        form = Body(call.function, call.invocation, self._complain)
        await self._call(scope, receive, send, call, form, finish)

    async def lines(self, scope: Scope, receive: Receive, send: Send, call: StreamedCall) -> None:
        """To who wants to know how it ended."""
        form = Lines(call.function, call.invocation, self._complain)
        await self._call(scope, receive, send, call, form, None)

    async def _call(
        self, scope: Scope, receive: Receive, send: Send, call: StreamedCall, form: Form, finish: Finish | None
    ) -> None:
        stream = self._streams.open(call.invocation)
        try:
            call.submit(stream.ended)
        except JiffyError as exc:
            stream.ended(exc)
        hung_up = asyncio.ensure_future(_hung_up(receive, stream))
        try:
            if not await _write(scope, send, stream, form, Dressed(call, finish)):
                stream.hang_up()
                await cut(scope, hung_up)
        except TimeoutError:  # it takes nothing, and others could have the room
            stream.hang_up()
            await cut(scope, hung_up, at_once=True)
        finally:
            stream.hang_up()
            hung_up.cancel()


class Dressed:
    """What is added to a response before it is written."""

    def __init__(self, call: StreamedCall, finish: Finish | None) -> None:
        self._call, self._finish = call, finish

    async def whole(self, response: Response) -> Response:
        response = self._call.warn(response, self._call.function)
        return await self._finish.whole(response) if self._finish else response

    def head(self, response: Response) -> Response:
        response = self._call.warn(response, self._call.function)
        return self._finish.head(response) if self._finish else response


async def _write(scope: Scope, send: Send, stream: Stream, form: Form, dressed: Dressed) -> bool:
    """False when the answer has to be broken off."""
    item = await stream.next()
    if item is None:
        return True
    if not isinstance(item, Piece):
        await reply(scope, send, await dressed.whole(form.whole(item)))
        return True
    more_follows, head, first = form.head(item)
    if not more_follows:
        await reply(scope, send, await dressed.whole(head))
        return True
    await start(send, dressed.head(head))
    if first:
        await more(send, first)
    stream.took(len(item.body))
    while isinstance(item := await stream.next(), Piece):
        if piece := form.piece(item):
            await more(send, piece)
        stream.took(len(item.body))
    if item is None:
        return True
    good, last = form.end(item)
    if last or good:
        await more(send, last, last=good)
    return good


async def _hung_up(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.hang_up()


def takes_pieces(scope: Scope) -> bool:
    """HTTP/1.0 has no chunks, and HEAD no body: they have the answer in one."""
    return bool(scope["http_version"] != "1.0" and scope["method"] != "HEAD")


def _line(document: dict[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
