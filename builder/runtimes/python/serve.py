"""What an image runs by itself: one function behind a plain HTTP server. `docker run -p 8080:8080 IMAGE`

It lies in the image as /var/runtime/serve.py and takes its settings from the image's JIFFY_* variables. Requests become
the same events, and results the same responses, as on the platform (httpevent.py is the contract's own file). Threads
read HTTP; the handler runs in the main thread, one call at a time, as in an instance. A call that takes longer than the
timeout is answered 504 and ends the process, since nothing else can stop it: let your engine restart it.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback  # noqa: F401 - before a user's traceback.py could be found
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from builder.runtimes.python.jiffy_function import (
        Context,
        Function,
        LoadError,
        failure,
        load_handler,
        logged_failure,
        prepare,
        run,
    )
    from builder.runtimes.python.jiffy_stream import run_stream
    from jiffy.contract import httpevent
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # an isolated interpreter does not do it
    import httpevent
    from jiffy_function import Context, Function, LoadError, failure, load_handler, logged_failure, prepare, run
    from jiffy_stream import run_stream

    del sys.path[0]

PORT = 8080
BODY_MAX = 6 * 1024 * 1024  # limits.PAYLOAD_MAX_BYTES
DISCARD_MAX = 64 * 1024 * 1024
IDLE_S = 75.0  # a connection that sends nothing
RAW_PATH = "/2015-03-31/functions/function/invocations"  # where AWS's local emulator takes a raw event


class Call:
    """One event on its way to the main thread and back."""

    __slots__ = ("done", "event", "id", "ok", "payload", "sink")

    def __init__(self, event: bytes, call_id: str, sink: Chunks | None) -> None:
        self.event, self.id, self.sink = event, call_id, sink
        self.done = threading.Event()
        self.ok, self.payload = False, b""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], timeout_ms: int, streams: bool) -> None:
        super().__init__(address, Handler)
        self.streams = streams
        self.timeout_ms = timeout_ms
        self.calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self.turn = threading.Lock()  # so that the timeout counts from a call's beginning, not from its arrival

    def run_call(self, event: bytes, call_id: str, sink: Chunks | None) -> Call | None:
        """The finished call, or None when its time ran out."""
        call = Call(event, call_id, sink)
        with self.turn:
            self.calls.put(call)
            return call if call.done.wait(self.timeout_ms / 1000) else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or len(self.raw_requestline) > 65536:
            self.close_connection = True
        elif self.parse_request():
            self.answer_call()
            self.wfile.flush()

    def answer_call(self) -> None:
        body = self.read_body()
        if body is None:
            return
        path, _, query = self.path.partition("?")
        call_id = str(uuid.uuid4())
        raw = self.command == "POST" and path == RAW_PATH
        try:
            event = (body or b"{}") if raw else self.event(path, query, body, call_id)
        except ValueError as exc:
            self.answer(400, [], failure("InvalidRequest", str(exc)))
            return
        chunks = self.server.streams and not raw and self.command != "HEAD" and self.request_version != "HTTP/1.0"
        sink = Chunks(self) if chunks else None
        call = self.server.run_call(event, call_id, sink)
        if sink is not None and sink.begun:
            self.end_chunks(call, sink)
            return
        if call is None:
            text = f"{call_id} Task timed out after {self.server.timeout_ms / 1000:.2f} seconds"
            self.answer(504, [], logged_failure("Sandbox.Timedout", text))
            self.wfile.flush()
            os._exit(1)
        self.answer_result(call, raw)

    def end_chunks(self, call: Call | None, sink: Chunks) -> None:
        """A stream that did not end well is broken off, so that nobody takes it for whole."""
        if call is None:
            logged_failure("Sandbox.Timedout", f"Task timed out after {self.server.timeout_ms / 1000:.2f} seconds")
            os._exit(1)
        if call.ok and not sink.gone():
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def event(self, path: str, query: str, body: bytes, call_id: str) -> bytes:
        return httpevent.event(
            method=self.command,
            path=unquote(path) or "/",
            raw_query=query,
            headers=[(name.lower(), value) for name, value in self.headers.items()],
            body=body,
            source_ip=self.client_address[0],
            request_id=call_id,
            protocol=self.request_version,
            now_ms=time.time_ns() // 1_000_000,
        )

    def answer_result(self, call: Call, raw: bool) -> None:
        if raw:
            self.answer(200, [] if call.ok else [("x-amz-function-error", "Unhandled")], call.payload)
        elif not call.ok:
            self.answer(502, [], call.payload)
        else:
            try:
                self.answer(*httpevent.response(call.payload))
            except ValueError as exc:
                self.answer(502, [], logged_failure("Jiffy.BadResponse", str(exc)))

    def read_body(self) -> bytes | None:
        """The request's body; None when it was refused."""
        length = self.headers.get("content-length", "0")
        if self.headers.get("transfer-encoding") or not length.isdecimal():
            self.refuse(411, "send the body with a Content-Length")
            return None
        if int(length) > BODY_MAX:
            self.discard(min(int(length), DISCARD_MAX))  # most clients read no answer before they have sent all
            self.refuse(413, f"the body has {length} bytes; at most {BODY_MAX} are allowed")
            return None
        return self.rfile.read(int(length))

    def discard(self, size: int) -> None:
        while size > 0 and (piece := self.rfile.read(min(size, 65536))):
            size -= len(piece)

    def refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self.answer(status, [("connection", "close")], failure("InvalidRequest", message))

    def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        if not any(name == "content-type" for name, _ in headers):
            self.send_header("content-type", "application/json")
        for name, value in headers:
            self.send_header(name, value)

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.begin(status, headers)
        if status not in (204, 304):
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The log is the function's own."""


class Chunks:
    """A jiffy_stream.Sink: pieces go out as they come, from the main thread while the connection's own waits."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._gone = False
        self.begun = False

    def head(self, document: bytes, data: bytes) -> None:
        status, headers, _ = httpevent.response(document)
        self.begun = True
        self._handler.begin(status, [*headers, ("transfer-encoding", "chunked")])
        self._handler.end_headers()
        if data:
            self.piece(data)

    def piece(self, data: bytes) -> None:
        try:
            self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        except OSError:
            self._gone = True

    def gone(self) -> bool:
        return self._gone


def main() -> None:
    settings = {name: os.environ[name] for name in os.environ if name.startswith("JIFFY_")}
    timeout_ms = int(settings.get("JIFFY_TIMEOUT_MS", "3000"))
    function = Function(name=settings["JIFFY_FUNCTION"], memory_mb=int(settings.get("JIFFY_MEMORY_MB", "128")))
    streams = "JIFFY_STREAM" in settings
    server = Server(("", int(settings.get("JIFFY_PORT", PORT))), timeout_ms, streams)
    handler_name = settings["JIFFY_HANDLER"]
    prepare(handler_name, function, {n: v for n, v in os.environ.items() if n not in settings})
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # process 1 has no default
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    try:
        handler: Callable[[Any, Any], Any] = load_handler(handler_name, function)
    except LoadError:  # it is in the log
        os._exit(1)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        call = server.calls.get()
        context = Context(function, call.id, timeout_ms)
        if streams:
            call.ok, call.payload, _ = run_stream(handler, call.event, context, call.sink)
        else:
            call.ok, call.payload, _ = run(handler, call.event, context)
        call.done.set()


if __name__ == "__main__":
    main()
