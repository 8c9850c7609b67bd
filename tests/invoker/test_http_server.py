"""Images that are HTTP servers: one behaviour, two drivers, seen as the pool sees it. And the mapping by itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from invoker import exchange
from invoker.client import Client
from invoker.microcontainer import Loaded, State
from invoker.program import Program
from invoker.sandbox import Exit, Reply
from jiffy.contract import httpevent
from jiffy.contract.messages import Process

from .lab import Lab

SERVER = r"""
import base64, json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        what = self.path.partition("?")[0]
        if what == "/exit": os._exit(7)
        if what == "/hang": time.sleep(60)
        if what == "/drop": self.close_connection = True; return self.connection.shutdown(2)
        if what == "/garbage": return self.wfile.write(b"SSH-2.0-nothing\r\n")
        if what == "/bytes": return self.answer(200, b"\x00\xff", "application/octet-stream")
        if what == "/long": return self.answer(200, b"x" * (7 << 20), "text/plain")
        if what == "/missing": return self.answer(404, b"no such thing", "text/plain")
        if what == "/until-the-end":
            self.close_connection = True
            return self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it")
        if what == "/pieces":
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n")
            return self.wfile.write(b"content-type: text/plain\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        said = {"method": self.command, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()},
                "body": base64.b64encode(body).decode(), "pid": os.getpid(), "client": self.client_address[1]}
        said["env"] = [os.environ.get(n) for n in ("PORT", "MINE", "GREETING", "HOME", "AWS_LAMBDA_RUNTIME_API")]
        said["cwd"], said["root"] = os.getcwd(), os.getuid() == 0
        print("asked", self.path, flush=True)
        self.answer(201 if self.command == "POST" and what == "/made" else 200, json.dumps(said).encode())

    do_POST = do_PUT = do_GET

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        for name, value in (("content-type", kind), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-y", "z")):
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): pass

time.sleep(float(os.environ.get("LATE", 0)))
if "FAILS" in os.environ: sys.exit(4)
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

Begin = Callable[..., Awaitable[tuple[Program, Loaded]]]


@pytest.fixture
async def begin(lab: Lab) -> AsyncIterator[Begin]:
    programs: list[Program] = []

    async def start(**env: str) -> tuple[Program, Loaded]:
        program = await Program.start(lab.driver, lab.data, "image", lab.base)
        programs.append(program)
        command = (f"/usr/local/bin/{lab.base_runtime}", "-I", "-B", "-c", SERVER)
        process = Process(
            command, {"MINE": "image's", "GREETING": "image's", "HOME": "/root"} | env, "/usr/local", 8099
        )
        revision = lab.revision("", runtime="image", handler="bootstrap", layers=(lab.base,), process=process)
        return program, await program.specialise(revision)

    yield start
    for program in programs:
        await program.close()


async def instance(begin: Begin, **env: str) -> Client:
    program, loaded = await begin(**env)
    assert loaded.error is None, loaded
    return await program.fork()


async def call(client: Client, event: bytes, timeout_s: float = 10.0) -> Reply | Exit:
    return await client.call({"id": "0190-call"}, event, timeout_s)


def event(path: str, method: str = "GET", body: bytes = b"", query: str = "", *headers: tuple[str, str]) -> bytes:
    return httpevent.event(
        method=method,
        path=path,
        raw_query=query,
        headers=[("host", "x.example"), *headers],
        body=body,
        source_ip="10.0.0.1",
        request_id="0190-call",
        now_ms=0,
    )


async def ask(client: Client, *what: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """The HTTP response that a caller of the function's URL gets."""
    reply = await call(client, event(*what))
    assert isinstance(reply, Reply), (reply, client.read_log())
    assert reply.ok, reply
    return httpevent.response(reply.payload)


async def error(client: Client, asked: bytes) -> dict[str, Any]:
    reply = await call(client, asked)
    assert isinstance(reply, Reply), reply
    assert not reply.ok, reply
    found: dict[str, Any] = json.loads(reply.payload)
    return found


@pytest.mark.root
async def test_a_request_goes_in_and_its_response_comes_back(begin: Begin) -> None:
    client = await instance(begin, LATE="0.2")
    status, headers, body = await ask(client, "/a b/ü", "GET", b"", "q=1&r=%20", ("x-mine", "1"), ("cookie", "c=2"))
    said = json.loads(body)
    assert (status, said["method"], said["path"]) == (200, "GET", "/a%20b/%C3%BC?q=1&r=%20")
    assert said["env"] == ["8099", "image's", "hello", "/tmp", None]
    assert (said["cwd"], said["root"]) == ("/usr/local", False)
    assert said["headers"]["host"] == "x.example"
    assert (said["headers"]["x-mine"], said["headers"]["cookie"]) == ("1", "c=2")
    assert said["headers"]["jiffy-invocation-id"] == "0190-call"
    assert [value for name, value in headers if name == "set-cookie"] == ["a=1", "b=2"]
    assert ("x-y", "z") in headers
    status, _, body = await ask(client, "/made", "POST", b"\x00\xffdata", "", ("content-type", "image/png"))
    again = json.loads(body)
    assert (status, again["body"]) == (201, "AP9kYXRh")
    assert (again["pid"], again["client"]) == (said["pid"], said["client"]), "one connection carries both"
    assert (await ask(client, "/bytes"))[2] == b"\x00\xff"
    assert (await ask(client, "/missing"))[::2] == (404, b"no such thing")
    assert (await ask(client, "/x", "HEAD"))[::2] == (200, b"")
    assert (await ask(client, "/pieces"))[2] == b"abcde"
    assert (await ask(client, "/until-the-end"))[2] == b"all of it"
    assert (await ask(client, "/pieces"))[2] == b"abcde", "after a connection that ended, another"
    assert b"asked /made" in client.read_log()


@pytest.mark.root
async def test_any_other_event_is_posted(begin: Begin) -> None:
    client = await instance(begin)
    reply = await call(client, b'{"a": 1}')
    assert isinstance(reply, Reply) and reply.ok, reply
    said = json.loads(reply.payload)
    assert (said["method"], said["path"], said["body"]) == ("POST", "/", "eyJhIjogMX0=")
    assert said["headers"]["content-type"] == "application/json"


@pytest.mark.root
async def test_what_is_no_response_is_the_functions_error(begin: Begin) -> None:
    client = await instance(begin)
    assert (await error(client, event("/drop")))["errorType"] == "Function.NoResponse"
    assert (await error(client, event("/garbage")))["errorType"] == "Function.NoResponse"
    assert (await error(client, event("/long")))["errorType"] == "Function.ResponseSizeTooLarge"
    assert (await ask(client, "/bytes"))[0] == 200, "and the next request is served"
    late = await call(client, event("/hang"), 0.5)
    assert isinstance(late, Exit) and late.reason == "timeout"


@pytest.mark.root
async def test_a_server_that_ends_is_a_crash_and_one_that_never_listens_no_start(begin: Begin) -> None:
    client = await instance(begin)
    end = await call(client, event("/exit"))
    assert isinstance(end, Exit) and (end.reason, end.code) == ("exit", 7)
    program, loaded = await begin(FAILS="1")
    assert loaded.error is not None and "exit status 4" in json.loads(loaded.error)["errorMessage"]
    await program.close()
    assert program.state is State.CLOSED


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"requestContext": {"http": {"method": "GET /x HTTP/1.1\r\nX: y\r\n"}}}, "method"),
        ({"headers": []}, ""),
        ({"headers": ["x"]}, "headers must be an object"),
        ({"body": {}, "isBase64Encoded": True}, ""),
        ({"body": "a", "isBase64Encoded": True}, "body is no base64"),
        ({"body": 1}, "body must be a string"),
    ],
)
def test_a_forged_event_is_refused(changes: dict[str, Any], says: str) -> None:
    forged = json.dumps(json.loads(event("/")) | changes).encode()
    if not says:
        assert exchange.request("1", forged, 80).head.startswith(b"GET / HTTP/1.1\r\n")
        return
    with pytest.raises(ValueError, match=says):
        exchange.request("1", forged, 80)


def test_nothing_in_an_event_can_break_out_of_its_request() -> None:
    forged = json.loads(event("/"))
    forged |= {"rawPath": "/a HTTP/1.1\r\nEvil: 1\r\n\r\n", "rawQueryString": "q=1 HTTP/1.1\r\nEvil: 1"}
    forged["headers"] = {"a\r\nEvil": "1", "b": "1\r\nEvil: 1", "content-length": "0", "Transfer-Encoding": "chunked"}
    forged["cookies"] = ["a=1\r\nEvil: 1"]
    asked = exchange.request("1", json.dumps(forged).encode(), 80)
    lines = asked.head.decode().split("\r\n")
    assert lines[0].count(" ") == 2
    assert not [line for line in lines if line.lower().startswith(("evil", "content-length", "transfer", "cookie"))]


@pytest.mark.parametrize(
    ("status", "kind", "body", "ok", "payload"),
    [
        (200, b"application/json", b'{"a": 1}', True, {"a": 1}),
        (200, b"application/json", b"{", True, "{"),
        (200, b"text/plain", "ü".encode(), True, "ü"),
        (204, b"", b"", True, None),
        (200, b"image/png", b"\x89", True, "iQ=="),
        (500, b"text/plain", b"broken", False, "Function.HttpError"),
        (404, b"image/png", b"\x89", False, "Function.HttpError"),
    ],
)
def test_a_response_to_a_plain_event(status: int, kind: bytes, body: bytes, ok: bool, payload: object) -> None:
    asked = exchange.request("1", b'"event"', 80)
    answered, result = exchange.result(asked, exchange.Response(status, [(b"content-type", kind)], body))
    found = json.loads(result)
    assert (answered, found if ok else found["errorType"]) == (ok, payload)
