"""What comes over a bare socket when no well-behaved client is at the other end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.protocol import HEAD_MAX_BYTES
from tests.gateway.conftest import Invokers, Served, serving
from tests.gateway.fake_invoker import publish

pytestmark = pytest.mark.redis


async def talk(port: int, data: bytes, *, until_closed: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            if until_closed:
                return await reader.read()
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
        with_errors = await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        assert len(with_errors) == 1


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"rubbish\r\n\r\n",
        b"GET  /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/9.9\r\n\r\n",
        b"GET /x HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /x HTTP/1.1\r\na: \x00\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /function/hello HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /function/hello HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /function/hello HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /function/hello HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_400_and_closed(served: Served, request_bytes: bytes) -> None:
    answer = await talk(served.port, request_bytes.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
    assert status(answer) in (400, 404), answer
    assert b"Traceback" not in answer
    assert (await served.http.get("/v1/functions")).status_code == 200


async def test_a_head_without_end_is_cut_off(served: Served) -> None:
    answer = await talk(served.port, b"GET /x HTTP/1.1\r\na: " + b"x" * (HEAD_MAX_BYTES + 100))
    assert status(answer) == 431
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"


async def test_many_or_large_headers_are_400(served: Served) -> None:
    many = b"".join(b"h%d: x\r\n" % n for n in range(500))
    answer = await talk(served.port, b"GET /x HTTP/1.1\r\nconnection: close\r\n" + many + b"\r\n")
    assert status(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"


async def test_a_long_path_is_400(served: Served) -> None:
    answer = await talk(served.port, b"GET /%b HTTP/1.1\r\nconnection: close\r\n\r\n" % (b"a" * 10_000))
    assert status(answer) == 400


async def test_a_query_of_too_many_parts_is_400_with_the_invocations_id(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await publish(redis_url)
    async with invoker() as fake:
        answer = await served.http.get("/function/hello?" + "a=1&" * 1500)
        assert answer.status_code == 400
        assert answer.headers["jiffy-invocation-id"]
        assert not fake.calls


async def test_any_bytes_in_header_values_and_paths_reach_the_function_as_text(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await publish(redis_url)
    async with invoker() as fake:
        request = (
            b"GET /function/hello/%FF%00%0d%0aX: HTTP/1.1\r\nx-host: \xe9\xff\r\nx-any: \x80\xff\r\n"
            b"cookie: a=\xff; ; b\r\nconnection: close\r\n\r\n"
        )
        assert status(await talk(served.port, request)) == 200
        event = json.loads(fake.calls[0].payload)
        assert event["headers"]["x-any"] == "\x80\xff"
        assert event["rawPath"].endswith("\0\r\nX:")


async def test_an_upgrade_that_is_only_offered_is_an_ordinary_request(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await publish(redis_url)
    async with invoker():
        request = (
            b"GET /function/hello HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\n"
            b"upgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        )
        assert status(await talk(served.port, request, until_closed=False)) == 200


async def test_pipelined_requests_are_answered_in_order(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker(lambda call: {"payload": json.dumps(json.loads(call.payload)["rawPath"]).encode()}):
        data = b"".join(b"GET /function/hello/%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % n for n in range(5))
        data += b"GET /function/hello/last HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        answer = await talk(served.port, data)
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [b'"/%d"' % n for n in range(5)] + [b'"/last"']


async def test_a_body_after_an_upgrade_is_no_request(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker() as fake:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"POST /function/hello HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"content-length: 60\r\n\r\n"
        )
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /function/hello/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert status(answer) == 400
        assert b"HTTP/1.1" not in await reader.read(), "the connection is closed after the refusal"
        assert not fake.calls
        writer.close()


async def test_many_refusals_in_a_pipeline_are_each_answered(redis_url: str, served: Served) -> None:
    await publish(redis_url)
    wrong = b"GET /function/hello?" + b"&" * 1200 + b" HTTP/1.1\r\nhost: localhost\r\n"
    data = (wrong + b"\r\n") * 300 + wrong + b"connection: close\r\n\r\n"
    answer = await talk(served.port, data)
    assert answer.count(b"HTTP/1.1 ") == 301
    assert served.gateway.admission.calls == 0


async def test_what_follows_in_a_pipeline_and_has_no_body_yet_is_awaited_and_takes_no_place(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await publish(redis_url)
    async with invoker():
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"GET /function/hello HTTP/1.1\r\nhost: localhost\r\n\r\n"
            b"POST /function/hello HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n"
        )
        answer = await reader.readuntil(b"100 Continue\r\n\r\n")
        assert status(answer) == 200
        assert served.gateway.admission.calls == 0
        writer.write(b"0123456789")
        assert status(await reader.readuntil(b"\r\n\r\n")) == 200
        writer.close()


async def test_rubbish_behind_calls_ends_the_connection_and_no_more(
    redis_url: str, served: Served, invoker: Invokers, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(redis_url)
    async with invoker():
        one = b"GET /function/hello HTTP/1.1\r\nhost: localhost\r\n\r\n"
        await talk(served.port, one + one + b"\0\r\n\r\n")
        assert (await served.http.get("/function/hello")).status_code == 200
        assert not caplog.records
        assert not served.gateway.loops.failed.is_set()


async def test_who_does_not_read_its_answers_gets_no_more_of_them(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await publish(redis_url)
    large = b'"' + b"x" * 2_000_000 + b'"'
    async with invoker(lambda call: {"payload": large} if b"/large" in call.payload else {}) as fake:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /function/hello/large HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)
        for _ in range(40):  # each as long as one of those would take
            assert (await served.http.get("/function/hello")).status_code == 200
        assert sum(b"/large" in call.payload for call in fake.calls) < 20
        writer.close()


async def test_expect_continue_is_refused_before_the_body_when_it_is_too_large(served: Served, redis_url: str) -> None:
    await publish(redis_url)
    request = (
        b"POST /function/hello HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\nexpect: 100-continue\r\n\r\n"
    )
    assert status(await talk(served.port, request, until_closed=False)) == 413


async def test_a_body_that_breaks_off_leaves_nothing_behind(redis_url: str, served: Served) -> None:
    await publish(redis_url)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /function/hello HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n" + b"x" * 70_000)
    await writer.drain()
    async with asyncio.timeout(5):
        while not served.gateway.admission.held:
            await asyncio.sleep(0.005)
        writer.close()
        while served.gateway.admission.held:
            await asyncio.sleep(0.005)
    assert not reader.at_eof() or await reader.read() == b""


PAGES = (
    {"host": "evil.example"},  # its name resolves to loopback now
    {"host": "evil.example:8080", "origin": "http://evil.example:8080"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "127.0.0.1@evil.example"},
    {"host": "localhost:1@evil.example"},
    {"origin": "https://evil.example", "content-type": "text/plain"},  # a form, which asks nobody first
    {"origin": "null"},
    {"origin": "https://localhost.evil.example"},
    {"sec-fetch-site": "cross-site"},
)


@pytest.mark.parametrize("headers", PAGES)
async def test_a_page_of_another_site_reaches_no_platform_without_a_key(
    redis_url: str, served: Served, headers: dict[str, str]
) -> None:
    await publish(redis_url)
    await served.gateway.catalog.resync()
    for method, path in (
        ("POST", "/function/hello"),
        ("POST", "/v1/functions/hello/invocations"),
        ("GET", "/v1/functions"),
        ("DELETE", "/v1/functions/hello"),
        ("OPTIONS", "/v1/functions/hello"),
        ("GET", "/metrics"),
        ("GET", "/somewhere"),
    ):
        answer = await served.http.request(method, path, headers=headers)
        assert answer.status_code == 403, (method, path)
        assert answer.json()["error"]["code"] == "forbidden"
    assert (await served.http.get("/v1/functions/hello")).status_code == 200, "it is still there"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "LOCALHOST:8080", "origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"host": "127.0.0.1:1", "origin": "http://127.0.0.1:1", "sec-fetch-site": "same-origin"},
        {"host": "127.9.9.9"},
        {"host": "[::1]:8080", "origin": "http://[::1]:8080"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_ones_own_pages_and_programs_do(served: Served, headers: dict[str, str]) -> None:
    assert (await served.http.get("/v1/functions", headers=headers)).status_code == 200


async def test_a_key_is_wall_enough_and_a_proxys_name_can_be_allowed(redis_url: str, data_dir: Path) -> None:
    theirs = {"host": "jiffy.example:443", "origin": "https://jiffy.example"}
    async with serving(redis_url, data_dir, "k") as served:
        answer = await served.http.get("/v1/functions", headers=theirs | {"x-api-key": "k"})
        assert answer.status_code == 200
    async with serving(redis_url, data_dir, allow_hosts=("Jiffy.example",)) as served:
        assert (await served.http.get("/v1/functions", headers=theirs)).status_code == 200
        assert (await served.http.get("/v1/functions", headers={"host": "other.example"})).status_code == 403
