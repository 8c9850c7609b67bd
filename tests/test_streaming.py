"""Answers that go out piece by piece, against a real `jiffy up`: what a caller sees, and what is told of them."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from jiffy import Client
from tests.platforms import Up, platform, until

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOML = """
[functions.stream]
handler = "m:handler"
stream = true
timeout_s = 20
routes = ["GET /told/{what}"]
[functions.awaits]
handler = "m:awaits"
stream = true
[functions.late]
handler = "m:late"
stream = true
timeout_s = 0.3
[functions.page]
handler = "m:handler"
stream = true
public = true
[[functions.page.triggers]]
type = "http"
path = "/page"
methods = ["GET"]
cors = { origins = ["https://page.example"] }
compress = true
etag = true
"""
SOURCE = """
import asyncio, os, pathlib, time

def handler(event, context):
    query = event.get("queryStringParameters") or event
    return globals()[query.get("do", "words")](query)

def words(query):
    yield "one "
    yield b"two "
    yield "three"

def signal(query):
    pathlib.Path("/tmp", query["name"]).touch()
    return "signalled"

def wait(query):  # between its two pieces, until somebody calls `signal`
    yield "before "
    while not os.path.exists("/tmp/" + query["name"]):
        time.sleep(0.01)
    yield "after"

def events(query):
    yield {"n": 1}
    yield {"n": 2}

def head(query):
    yield {"statusCode": 202, "headers": {"X-Own": "yes"}, "cookies": ["a=1", "b=2"], "body": "begun "}
    yield "and done"

def bad_head(query):
    yield {"statusCode": "many"}
    yield "never seen"

def heads(query):
    yield {"statusCode": 200, "headers": {"x-own": '"' * int(query["size"])}, "body": "and "}
    yield "body"

def fails(query):
    yield {"n": 1}
    raise ValueError("amid")

def fails_first(query):
    raise ValueError("before anything")
    yield

def number(query):
    yield "text"
    yield 7

def exits(query):
    yield "text"
    time.sleep(0.05)
    os._exit(3)

def endless(query):
    try:
        while True:
            yield "tick "
            time.sleep(0.02)
    finally:
        print("it is over")

def flood(query):
    for n in range(40):
        with open("/tmp/" + query["name"], "w") as file:
            file.write(str(n))
        yield bytes([n]) * 1_000_000

def read(query):
    return pathlib.Path("/tmp", query["name"]).read_text()

async def awaits(event, context):
    for n in range(3):
        await asyncio.sleep(0.001)
        yield f"{n} "

def late(event, context):
    yield "text"
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("platform")
    for made in (folder, folder.parent, folder.parent.parent):
        made.chmod(0o755)
    with platform(folder / "data", "--sandbox", "bwrap") as running:
        running.deploy(folder / "m", TOML, m__py=SOURCE)
        yield running
    assert running.left() == []


def ask(up: Up, do: str, **more: str) -> httpx.Response:
    return up.get("/function/stream", params={"do": do, **more})


def broken(up: Up, path: str) -> tuple[httpx.Response, str]:
    """An answer that must break off: its head, and what came until then."""
    text = ""
    with up.http.stream("GET", path) as answer, pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        for piece in answer.iter_text():
            text += piece
    return answer, text


def told(up: Up, answer: httpx.Response, what: str, name: str = "stream") -> None:
    """The log of this call has this."""
    invocation = answer.headers["jiffy-invocation-id"]
    asked = {"format": "text", "invocation": invocation}
    until(lambda: what in up.get(f"/v1/functions/{name}/logs", params=asked).text)


def outcome(up: Up, answer: httpx.Response) -> str:
    def rows() -> list[dict[str, str]]:
        listed: list[dict[str, str]] = up.get("/v1/usage", params={"by": "call", "limit": "20"}).json()["rows"]
        return [row for row in listed if row["invocation"] == answer.headers["jiffy-invocation-id"]]

    until(rows)
    return rows()[0]["outcome"]


def test_what_is_yielded_is_there_before_the_handler_goes_on(up: Up) -> None:
    with up.http.stream("GET", "/function/stream", params={"do": "wait", "name": "go"}) as answer:
        pieces = answer.iter_text()
        assert next(pieces) == "before "
        assert ask(up, "signal", name="go").text == '"signalled"', "what returns no generator answers as ever"
        assert "".join(pieces) == "after"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["transfer-encoding"] == "chunked" and answer.headers["jiffy-revision"] == "1"
    told(up, answer, "Duration:")
    assert outcome(up, answer) == "ok"


def test_dicts_are_server_sent_events(up: Up) -> None:
    answer = up.get("/told/x", params={"do": "events"})
    assert answer.headers["content-type"] == "text/event-stream" and answer.headers["cache-control"] == "no-cache"
    assert answer.text == 'data: {"n":1}\n\ndata: {"n":2}\n\n'


def test_the_first_dict_may_be_the_head(up: Up) -> None:
    answer = ask(up, "head")
    assert (answer.status_code, answer.text) == (202, "begun and done")
    assert answer.headers["x-own"] == "yes" and answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    bad = ask(up, "bad_head")
    assert (bad.status_code, bad.json()["errorType"]) == (502, "Jiffy.BadResponse")
    told(up, bad, "statusCode must be an integer")


def test_a_head_may_have_all_headers_that_a_response_may_and_is_told_when_it_has_more(up: Up) -> None:
    answer = ask(up, "heads", size="65000")
    assert answer.text == "and body" and len(answer.headers["x-own"]) == 65_000
    answer = ask(up, "heads", size="200000")
    assert (answer.status_code, answer.json()["errorType"]) == (502, "Function.ResponseSizeTooLarge")
    assert "the head of the stream" in answer.json()["errorMessage"]
    told(up, answer, "has more than 262144 bytes")


def test_asynchronous_generators_stream_too(up: Up) -> None:
    assert up.get("/function/awaits").text == "0 1 2 "


def test_what_fails_before_its_first_piece_is_an_ordinary_failure(up: Up) -> None:
    answer = ask(up, "fails_first")
    assert (answer.status_code, answer.headers["jiffy-outcome"]) == (502, "error")
    assert answer.json()["errorMessage"] == "before anything"


def test_what_fails_later_breaks_off_visibly(up: Up) -> None:
    answer, text = broken(up, "/function/stream?do=fails")
    assert answer.status_code == 200
    data, _, error = text.partition("event: error\n")
    assert data.startswith('data: {"n":1}\n\n') and '"errorMessage": "amid"' in error
    told(up, answer, "ValueError: amid")
    assert outcome(up, answer) == "error"
    answer, text = broken(up, "/function/stream?do=number")
    assert text == "text"
    told(up, answer, "a stream yields str, bytes or dict, not int")
    answer, text = broken(up, "/function/stream?do=exits")
    assert (text, outcome(up, answer)) == ("text", "crash")
    answer, text = broken(up, "/function/late")
    assert (text, outcome(up, answer)) == ("text", "timeout")
    told(up, answer, "Task timed out", "late")
    assert ask(up, "words").text == "one two three", "and the next one is answered"


def test_who_hangs_up_ends_the_handler(up: Up) -> None:
    with up.http.stream("GET", "/function/stream", params={"do": "endless"}) as answer:
        assert next(answer.iter_text()).startswith("tick")
    told(up, answer, "it is over")
    told(up, answer, "the caller hung up")
    assert outcome(up, answer) == "ok"


def test_a_slow_reader_holds_the_handler_up_and_gets_all(up: Up) -> None:
    place = urlsplit(up.url)
    with socket.create_connection((place.hostname, place.port)) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        reader.sendall(
            b"GET /function/stream?do=flood&name=flood HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        assert reader.recv(1, socket.MSG_PEEK)
        seen = [-1, int(ask(up, "read", name="flood").json())]
        while seen[-1] != seen[-2]:
            time.sleep(0.3)  # it must stand still
            seen.append(int(ask(up, "read", name="flood").json()))
        assert seen[-1] < 20, "the rest waits in the handler"
        raw = bytearray()
        while piece := reader.recv(1 << 20):
            raw += piece
    assert raw.endswith(b"0\r\n\r\n")
    assert sum(raw.count(bytes([n]) * 1000) for n in range(40)) >= 39 * 999


def test_callers_who_take_no_stream_get_it_whole(up: Up) -> None:
    key = {"idempotency-key": "once"}
    first, second = (up.get("/function/stream", params={"do": "words"}, headers=key) for _ in range(2))
    assert first.text == second.text == "one two three" and "content-length" in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    result = {
        "statusCode": 200,
        "headers": {"content-type": "text/plain; charset=utf-8"},
        "body": "one two three",
        "isBase64Encoded": False,
    }
    assert up.invoke("stream").json() == result
    assert up.json("invoke", "stream", "--async", "--wait")["result"] == result
    refused = up.http.post("/v1/functions/stream/invocations", params={"mode": "stream"}, headers=key)
    assert refused.status_code == 400 and "Idempotency-Key" in refused.json()["error"]["message"]


def test_pages_of_others_and_strangers_take_streams_where_they_may(up: Up) -> None:
    page = {"origin": "https://page.example", "accept-encoding": "gzip"}
    answer = up.get("/page", params={"do": "events"}, headers=page)
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "etag" not in answer.headers and "content-encoding" not in answer.headers
    assert answer.text.endswith('data: {"n":2}\n\n')


def test_the_command_line_and_the_client_show_it_as_it_comes(up: Up) -> None:
    shown = up.jiffy("invoke", "stream", '{"do": "words"}')
    assert shown.stdout == "one two three" and "ok in" in shown.stderr
    shown = up.jiffy("invoke", "stream", '{"do": "fails"}', status=1)
    assert shown.stdout == 'data: {"n":1}\n\n' and "ValueError: amid" in shown.stderr
    with Client(up.url) as client:
        with client.invoke_stream("stream", {"do": "wait", "name": "other"}) as answer:
            pieces = iter(answer)
            assert next(pieces) == b"before "
            client.invoke("stream", {"do": "signal", "name": "other"})
            assert b"".join(pieces) == b"after"
        assert answer.ended is not None and answer.ended.ok and answer.status == 200
        with client.invoke_stream("stream", {"do": "signal", "name": "x"}) as answer:
            assert list(answer) == [] and answer.ended is not None and answer.ended.result == "signalled"


def test_the_chat_answers_word_by_word(up: Up) -> None:
    up.jiffy("deploy", str(EXAMPLES / "chat"))
    page = up.get("/chat")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    source = re.search(r'new EventSource\("([^"]+)"', page.text)
    assert source is not None
    with up.http.stream("GET", source[1] + "I am tired of my servers.") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
    assert " ".join(event["word"] for event in events[:-1]).endswith("tired of your servers?")
    assert events[-1] == {"done": len(events) - 1}
    with up.http.stream("GET", source[1] + "hello") as answer:
        next(answer.iter_lines())
    told(up, answer, "interrupted", "chat")


def test_a_program_can_not_stream(tmp_path: Path, up: Up) -> None:
    (tmp_path / "jiffy.toml").write_text('[functions.c]\nruntime = "provided"\nstream = true\n')
    refused = up.jiffy("deploy", str(tmp_path), status=1)
    assert "stream = true; allowed: false, as only Python's functions answer piece by piece" in refused.stderr
