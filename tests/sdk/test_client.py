"""The client against a small real HTTP server that answers what it is told to."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jiffy import Client
from jiffy.client import declared
from jiffy.contract.errors import (
    BuildFailed,
    InvalidRequest,
    NotFound,
    PlatformError,
    SpecError,
    Throttled,
    Unauthorized,
    Unavailable,
)
from jiffy.listener import listen
from jiffy.package import pack

Reply = tuple[int, dict[str, str], bytes]


class Platform:
    """Answers by (method, path); keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: dict[tuple[str, str], list[Reply]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        platform = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                platform.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                path = self.path.partition("?")[0]
                replies = platform.replies.get((self.command, path), [(404, {}, b"{}")])
                status, headers, content = replies.pop(0) if len(replies) > 1 else replies[0]
                self.send_response(status)
                for name, value in ({"content-length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815

            def log_message(self, *args: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def say(self, method: str, path: str, status: int, document: Any, **headers: str) -> None:
        """From now on."""
        self.replies.pop((method, path), None)
        self.then(method, path, status, document, **headers)

    def then(self, method: str, path: str, status: int, document: Any, **headers: str) -> None:
        """The answer after those; the last one stays."""
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        reply = (status, {k.replace("_", "-"): v for k, v in headers.items()}, content)
        self.replies.setdefault((method, path), []).append(reply)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.close()


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    with Client(platform.url, "the-key") as made:
        yield made


def test_a_call_tells_how_it_went(platform: Platform, client: Client) -> None:
    platform.say(
        *("POST", "/v1/functions/hello/invocations", 200, {"message": "hi"}),
        jiffy_invocation_id="019a",
        jiffy_outcome="ok",
        jiffy_duration_ms="2.041",
        jiffy_billed_ms="100",
        jiffy_cold="true",
        jiffy_init_ms="3.4",
        jiffy_revision="7",
    )
    call = client.invoke("hello", {"name": "Ada"})
    assert call.ok and call.result == {"message": "hi"}
    assert (call.id, call.duration_ms, call.billed_ms, call.cold, call.init_ms, call.revision) == (
        *("019a", 2.041, 100, True),
        *(3.4, 7),
    )
    method, _, headers, body = platform.asked[-1]
    assert (method, json.loads(body), headers["authorization"]) == ("POST", {"name": "Ada"}, "Bearer the-key")


def test_a_function_that_failed_is_an_outcome(platform: Platform, client: Client) -> None:
    platform.say("POST", "/v1/functions/hello/invocations", 200, {"errorType": "ValueError"}, jiffy_outcome="error")
    call = client.invoke("hello")
    assert not call.ok and call.result == {"errorType": "ValueError"}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", NotFound),
        (401, "unauthorized", Unauthorized),
        (422, "build_failed", BuildFailed),
        (429, "throttled", Throttled),
        (500, "from_a_newer_release", PlatformError),
    ],
)
def test_an_error_comes_back_as_its_class(
    platform: Platform, client: Client, status: int, code: str, kind: type[Exception]
) -> None:
    platform.say("GET", "/v1/status", status, {"error": {"code": code, "message": "why", "retry_after_s": 2}})
    with pytest.raises(kind, match=r"^why$") as caught:
        client.status()
    assert getattr(caught.value, "retry_after_s", None) == 2


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "text"}', b""])
def test_an_error_from_something_else_is_a_platform_error(platform: Platform, client: Client, body: bytes) -> None:
    platform.say("GET", "/v1/status", 502, body)
    with pytest.raises(PlatformError, match="answered 502"):
        client.status()


def test_a_good_answer_that_is_no_json(platform: Platform, client: Client) -> None:
    platform.say("GET", "/v1/status", 200, b"<html>")
    with pytest.raises(PlatformError, match="is it a Jiffy platform"):
        client.status()


def test_nobody_there() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(Unavailable, match="`jiffy up`, or set JIFFY_URL"):
        client.status()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "nonsense", "http://[::1"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(InvalidRequest), Client(url) as client:
        client.status()


def test_a_key_that_no_header_can_carry() -> None:
    with pytest.raises(InvalidRequest, match="JIFFY_API_KEY"):
        Client("http://127.0.0.1:1", "schlüssel\u2028")


def test_a_stream_of_objects_breaks_at_line_feeds_alone(platform: Platform, client: Client) -> None:
    lines = [{"text": "a\u2028b\x0bc\r"}, {"text": ""}]
    content = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    platform.say("GET", "/v1/lines", 200, content)
    assert list(client.stream("/v1/lines")) == lines


def test_a_builds_events_go_on_where_they_broke_off(platform: Platform, client: Client) -> None:
    step, done = {"id": "5-0", "kind": "step"}, {"id": "6-0", "kind": "done"}
    platform.say("GET", "/v1/builds/7/events", 200, json.dumps(step).encode() + b"\n")
    platform.then("GET", "/v1/builds/7/events", 200, json.dumps(done).encode() + b"\n")
    assert list(client.build("7")) == [step, done]
    assert [path.partition("?")[2] for _, path, _, _ in platform.asked] == ["after=0", "after=5-0"]


def folder(path: Path, toml: str) -> Path:
    (path / "jiffy.toml").write_text(toml)
    (path / "m.py").write_text("")
    return path


TWO = '[functions.a]\nhandler = "m:a"\n[functions.b]\nhandler = "m:b"\n'


def test_a_deploy_uploads_once_and_one_failure_does_not_keep_the_others(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    platform.say("PUT", "/v1/functions/a", 409, {"error": {"code": "conflict", "message": "GET /x is taken"}})
    platform.say("PUT", "/v1/functions/b", 202, {"build": "7"})
    platform.say("GET", "/v1/builds/7/events", 200, {"kind": "done", "revision": 1})
    source = f"/v1/sources/{pack(folder(tmp_path, TWO)).digest.removeprefix('sha256:')}"
    platform.say("PUT", source, 201, {})
    assert list(client.deploy(tmp_path)) == [
        {"function": "a", "kind": "failed", "text": "GET /x is taken", "error_code": "conflict"},
        {"function": "b", "kind": "done", "revision": 1},
    ]
    platform.say("HEAD", source, 200, b"")
    platform.asked.clear()
    list(client.deploy(tmp_path, only=("b",)))
    assert [(method, where) for method, where, _, _ in platform.asked] == [
        ("HEAD", source),
        ("PUT", "/v1/functions/b"),
        ("GET", "/v1/builds/7/events?after=0"),
    ]


def test_what_is_not_declared_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no jiffy\.toml; `jiffy init"):
        declared(tmp_path)
    with pytest.raises(SpecError, match="declares no function 'c'; it declares a, b"):
        declared(folder(tmp_path, TWO), ("c",))


def test_a_name_that_is_none_does_not_become_a_path(client: Client) -> None:
    with pytest.raises(SpecError):
        client.function("../status")
