"""An answer that goes out piece by piece: what a handler yields, as bytes, to a sink.

Imported only for a function with ``stream = true``. A handler yields str and bytes, which go out as they are, and dict,
each of which becomes one server-sent event. A dict with a ``statusCode`` that comes first is the head of the response;
where there is none, the first piece decides. Who takes the pieces (the agent's socket, an HTTP server's, or one whole
result) is a sink. Standard library only; it lies in the image as /var/runtime/jiffy_stream.py.
"""

from __future__ import annotations

import binascii
import json
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    from builder.runtimes.python.jiffy_frames import frame, read_frame, send_frame
    from builder.runtimes.python.jiffy_function import (
        RESULT_MAX,
        Context,
        Function,
        encode,
        failed,
        finish,
        flush,
        logged_failure,
        marshal,
        monotonic_ns,
        unmarshal,
    )

    class Sink(Protocol):
        """Who takes a streamed answer."""

        def head(self, document: bytes, data: bytes) -> None:
            """Once, before any piece: statusCode, headers, cookies, as JSON; and what goes out with it."""

        def piece(self, data: bytes) -> None: ...
        def gone(self) -> bool:
            """Does nobody take any more?"""
else:
    from jiffy_frames import frame, read_frame, send_frame
    from jiffy_function import (
        RESULT_MAX,
        Context,
        encode,
        failed,
        finish,
        flush,
        logged_failure,
        marshal,
        monotonic_ns,
        unmarshal,
    )

HEAD_MAX = 256 * 1024  # limits.HEAD_MAX_BYTES
PIECE_MAX = 64 * 1024  # limits.PIECE_MAX_BYTES
WINDOW = 256 * 1024  # limits.WINDOW_BYTES
TOTAL_MAX = 200 * 1024 * 1024  # limits.STREAM_MAX_BYTES
EVENTS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would keep what it can back
}
KINDS = {str: {"content-type": "text/plain; charset=utf-8"}, bytes: {"content-type": "application/octet-stream"}}


class TooLarge(Exception):
    """The answer, or its head, has more bytes than it may."""


class Whole:
    """A sink for a caller who takes one result: it becomes a response in payload format 2.0."""

    def __init__(self) -> None:
        self._document: dict[str, Any] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    def head(self, document: bytes, data: bytes) -> None:
        self._document = json.loads(document)
        self.piece(data)

    def piece(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > RESULT_MAX:
            raise TooLarge(
                f"the joined pieces have more than {RESULT_MAX} bytes, the most for a caller who takes no stream"
            )
        self._pieces.append(data)

    def gone(self) -> bool:
        return False

    def result(self) -> dict[str, Any]:
        body = b"".join(self._pieces)
        try:
            return {**self._document, "body": body.decode(), "isBase64Encoded": False}
        except UnicodeDecodeError:
            text = binascii.b2a_base64(body, newline=False).decode()
            return {**self._document, "body": text, "isBase64Encoded": True}


def serve(conn: socket.socket, handler: Callable[[Any, Any], Any], function: Function) -> None:
    """As the agent's, for a function that streams: while it answers it may be told that nobody takes any more."""
    while (call := read_frame(conn)) is not None:
        meta, event = call
        if meta["t"] != "call":
            continue  # about a call that is over
        c = meta["c"]
        wire = Wire(conn, c) if meta.get("stream") else None
        ok, payload, spent = run_stream(handler, event, Context(function, meta["id"], meta["timeout_ms"]), wire)
        flush()
        send_frame(conn, b'{"t":"%s","c":%d,"us":%d}' % (b"ok" if ok else b"error", c, spent), payload)


class Wire:
    """A sink: frames to the invoker, which says how much was taken. Beyond a window that nobody took, we wait."""

    def __init__(self, conn: socket.socket, c: int) -> None:
        self._conn, self._c = conn, c
        self._poll = select.poll()
        self._poll.register(conn, select.POLLIN)
        self._gone = False
        self._sent = self._taken = 0

    def head(self, document: bytes, data: bytes) -> None:
        self._sent += len(data)
        head = frame(b'{"t":"head","c":%d}' % self._c, document)
        self._conn.sendall(head + frame(b'{"t":"piece","c":%d}' % self._c, data) if data else head)

    def piece(self, data: bytes) -> None:
        while self._sent - self._taken > WINDOW and not self._gone:
            self._hear()
        if not self._gone:
            self._sent += len(data)
            send_frame(self._conn, b'{"t":"piece","c":%d}' % self._c, data)

    def gone(self) -> bool:
        while not self._gone and self._poll.poll(0):
            self._hear()
        return self._gone

    def _hear(self) -> None:
        told = read_frame(self._conn)
        if told is None:
            self._gone = True
        elif told[0]["c"] == self._c:  # else of a call that is over
            self._gone = told[0]["t"] == "cancel"
            self._taken = told[0].get("bytes", self._taken)


def run_stream(
    handler: Callable[[Any, Any], Any], event: bytes, context: Context, sink: Sink | None
) -> tuple[bool, bytes, int]:
    """As jiffy_function.run, with what the handler yields given to `sink`; without one the result is all of it, joined.

    The time is until the handler's generator has ended. A handler that returns something else has that for its result.
    """
    taker: Any = sink or Whole()
    value, error = unmarshal(event)
    if error:
        return False, error, 0
    began = monotonic_ns()
    try:
        result = handler(value, context)
        if hasattr(result, "__await__"):
            result = finish(result)
        pieces = _pieces(result)
        if pieces is not None:
            _deliver(pieces, taker)
    except SystemExit:
        raise
    except TooLarge as exc:
        return False, logged_failure("Function.ResponseSizeTooLarge", str(exc)), (monotonic_ns() - began) // 1000
    except BaseException as exc:
        return False, failed(exc), (monotonic_ns() - began) // 1000
    spent = (monotonic_ns() - began) // 1000
    if pieces is not None and sink is not None:
        return True, b"", spent
    return *marshal(result if pieces is None else taker.result()), spent


def _pieces(result: Any) -> Iterator[Any] | None:
    """What a handler returned, if it is a stream."""
    if hasattr(result, "__aiter__"):
        return _steps(result.__aiter__())
    return result if hasattr(result, "__next__") else None


def _steps(pieces: Any) -> Iterator[Any]:
    """An asynchronous generator's, one by one."""
    try:
        while True:
            try:
                one = finish(pieces.__anext__())
            except StopAsyncIteration:
                return
            yield one
    finally:
        if hasattr(pieces, "aclose"):
            finish(pieces.aclose())


def _deliver(pieces: Iterator[Any], sink: Sink) -> None:
    """Give all pieces to `sink`, or as many as it takes: then the handler sees GeneratorExit where it yielded."""
    begun, total = False, 0
    try:
        for one in pieces:
            if sink.gone():
                return
            document, data = (b"", as_bytes(one)) if begun else _begin(one)
            total += len(data)
            if total > TOTAL_MAX:
                raise TooLarge(f"the stream has more than {TOTAL_MAX} bytes")
            if not begun:
                begun = True
                sink.head(document, data[:PIECE_MAX])
                data = data[PIECE_MAX:]
            for at in range(0, len(data), PIECE_MAX):
                sink.piece(data[at : at + PIECE_MAX])
            if sink.gone():
                return
        if not begun:
            sink.head(_head(200, KINDS[str]), b"")
    finally:
        if hasattr(pieces, "close"):
            pieces.close()


def _begin(one: Any) -> tuple[bytes, bytes]:
    """The head that the first thing yielded makes, and what goes out with it."""
    if not isinstance(one, dict) or "statusCode" not in one:
        data = as_bytes(one)
        kind = EVENTS if isinstance(one, dict) else KINDS[str if isinstance(one, str) else bytes]
        return _head(200, kind), data
    headers = one.get("headers") or {}
    if isinstance(headers, dict) and not any(str(name).lower() == "content-type" for name in headers):
        headers = {**KINDS[str], **headers}
    more = {name: one[name] for name in ("multiValueHeaders", "cookies") if name in one}
    body = one.get("body") or ""
    data = binascii.a2b_base64(body) if one.get("isBase64Encoded") else as_bytes(body)
    return _head(one["statusCode"], headers, **more), data


def _head(status: object, headers: object, **more: object) -> bytes:
    head = encode({"statusCode": status, "headers": headers, **more}).encode("utf-8", "surrogatepass")
    if len(head) > HEAD_MAX:
        raise TooLarge(f"the head of the stream (statusCode, headers, cookies) has more than {HEAD_MAX} bytes as JSON")
    return head


def as_bytes(one: Any) -> bytes:
    """One piece as it travels."""
    if isinstance(one, str):
        return one.encode("utf-8", "surrogatepass")
    if isinstance(one, (bytes, bytearray, memoryview)):
        return bytes(one)
    if isinstance(one, dict):
        return f"data: {encode(one)}\n\n".encode("utf-8", "surrogatepass")
    raise TypeError(f"a stream yields str, bytes or dict, not {type(one).__name__}")
