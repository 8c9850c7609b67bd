"""Logs as people and programs read them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from uuid_utils import uuid7

from gateway.following import Following
from gateway.routes.logs import render
from jiffy.contract import keys, wire
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import LogEntry
from tests.gateway.conftest import Invokers, Served
from tests.gateway.fake_invoker import publish

ID = "019a0000-0000-7000-8000-00000000000a"
REPORT = ("ok", 2_050, 100, 128, 7 * 1024 * 1024 + 1, 0)
Write = Callable[[LogEntry], Awaitable[None]]


def entry(text: bytes, invocation: str = ID, **changes: object) -> LogEntry:
    return LogEntry(invocation, 1, 3, 0, True, text, 0, REPORT)._replace(**changes)


@pytest.fixture
def write(redis_url: str) -> Write:
    async def add(entry: LogEntry) -> None:
        async with Redis.from_url(redis_url) as redis:
            await redis.xadd(keys.logs("default", "hello"), {"l": wire.pack(entry)})

    return add


def test_a_call_reads_as_with_lambda() -> None:
    assert render(entry(b"hello\nworld\n")) == (
        b"START RequestId: %(id)b Version: 3\nhello\nworld\nEND RequestId: %(id)b\n"
        b"REPORT RequestId: %(id)b\tDuration: 2.05 ms\tBilled Duration: 100 ms\tMemory Size: 128 MB\t"
        b"Max Memory Used: 8 MB\n" % {b"id": ID.encode()}
    )


def test_a_cold_start_and_a_failure_are_in_the_report() -> None:
    text = render(entry(b"", report=("timeout", 3_000_000, 3000, 128, 0, 19_262)))
    assert text.endswith(b"\tInit Duration: 19.26 ms\tStatus: timeout\n")
    assert b"Init Duration" not in render(entry(b""))


def test_pieces_of_a_long_call_have_one_start_and_one_end() -> None:
    pieces = [
        entry(b"1\n", report=None),
        entry(b"no line break", first=False, report=None),
        entry(b"", first=False, dropped_bytes=77),
    ]
    lines = b"".join(map(render, pieces)).splitlines()
    assert [line.split()[0] for line in lines] == [b"START", b"1", b"no", b"[77", b"END", b"REPORT"]


def test_a_call_that_never_began_is_one_plain_line() -> None:
    why = b"RequestId: 019a hello was not run: max_instances = 1 and no instance was free in time\n"
    assert render(entry(why, report=("throttled", 0, 0, 128, 0, 0))) == why
    assert render(entry(why, report=("error", 0, 100, 128, 0, 9))).startswith(b"START")


@pytest.mark.redis
async def test_lines_with_the_time_at_which_they_came(redis_url: str, served: Served, write: Write) -> None:
    await publish(redis_url)
    await write(entry(b"one\ntwo\n", at_ms=1_790_000_000_123))
    answer = await served.http.get("/v1/functions/hello/logs", params={"timestamps": "true"})
    times, lines = zip(*[line.split("  ", 1) for line in answer.text.splitlines()], strict=True)
    assert set(times) == {"2026-09-21T14:13:20.123Z"}
    assert [line.split()[0] for line in lines] == ["START", "one", "two", "END", "REPORT"]


@pytest.mark.redis
async def test_the_last_entries_oldest_first(redis_url: str, served: Served, write: Write) -> None:
    await publish(redis_url)
    for n in range(250):
        await write(entry(b"line %d\n" % n))
    answer = await served.http.get("/v1/functions/hello/logs", params={"limit": 130})
    assert answer.headers["content-type"].startswith("text/plain")
    printed = [line for line in answer.text.splitlines() if line.startswith("line")]
    assert printed == [f"line {n}" for n in range(120, 250)]


@pytest.mark.redis
async def test_one_invocation_only_and_text_that_forges_our_lines(redis_url: str, served: Served, write: Write) -> None:
    await publish(redis_url)
    mine, other = str(uuid7()), str(uuid7())
    for n in range(120):
        await write(entry(b"theirs %d\n" % n, other))
    forged = f"END RequestId: {mine}\nSTART RequestId: {other} \x1b[2J\xff".encode("latin-1")
    await write(entry(forged, mine))
    params = {"invocation": mine, "format": "json"}
    lines = (await served.http.get("/v1/functions/hello/logs", params=params)).text.splitlines()
    [document] = [json.loads(line) for line in lines]
    params["invocation"] = mine[-8:]  # as the bill shows it
    assert (await served.http.get("/v1/functions/hello/logs", params=params)).text.splitlines() == lines
    assert document["invocation"] == mine
    assert document["text"].startswith("END RequestId")
    assert document["report"]["billed_ms"] == 100


@pytest.mark.redis
async def test_what_a_removed_function_still_prints_is_not_its_successors(
    redis_url: str, served: Served, write: Write
) -> None:
    await publish(redis_url, number=3)
    await write(entry(b"of the first\n"))
    assert (await served.http.delete("/v1/functions/hello")).status_code == 204
    await write(entry(b"a call that still ran\n"))
    await publish(redis_url, number=4)
    await write(entry(b"of the second\n", revision=4))
    async with asyncio.timeout(10):
        while (answer := await served.http.get("/v1/functions/hello/logs")).status_code == 404:
            await asyncio.sleep(0.01)
    printed = [line for line in answer.text.splitlines() if "of the" in line or "still" in line]
    assert printed == ["of the second"]


@pytest.mark.redis
async def test_what_http_cannot_carry_is_in_the_log(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    log = keys.logs("default", "hello")
    async with invoker(lambda call: {"payload": b'{"statusCode":"soon"}'}), Redis.from_url(redis_url) as redis:
        first = await redis.xadd(log, {"l": wire.pack(LogEntry("x", 1, 1, 0, True, b"", 0))})  # the invoker's
        answer = await served.http.get("/function/hello")
        [(_, [(_, fields)])] = await redis.xread({log: first}, block=10_000)
    line = wire.unpack(LogEntry, fields[b"l"]).text.decode()
    assert line.startswith(f"[ERROR] RequestId: {answer.headers['jiffy-invocation-id']} Jiffy.BadResponse: ")


@pytest.mark.redis
async def test_logs_can_be_followed(redis_url: str, served: Served, write: Write) -> None:
    await publish(redis_url)
    await write(entry(b"before\n"))
    async with served.http.stream("GET", "/v1/functions/hello/logs", params={"follow": "true"}) as stream:
        lines = stream.aiter_lines()
        assert [await anext(lines) for _ in range(4)][1] == "before"
        await write(entry(b"after\n"))
        assert [await anext(lines) for _ in range(4)][1] == "after"
        served.gateway.following.stop()
        assert [line async for line in lines] == [], "the end of the gateway is the end of the stream"


@pytest.mark.redis
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=99999",
        "format=xml",
        "follow=maybe",
        "since=now",
        "invocation=x",
        "timestamps=x",
        "folow=1",
    ],
)
async def test_a_wrong_parameter_is_named(redis_url: str, served: Served, query: str) -> None:
    await publish(redis_url)
    answer = await served.http.get(f"/v1/functions/hello/logs?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]["message"]


@pytest.mark.redis
async def test_logs_of_no_function_and_of_none_yet(redis_url: str, served: Served) -> None:
    assert (await served.http.get("/v1/functions/hello/logs")).status_code == 404
    await publish(redis_url)
    answer = await served.http.get("/v1/functions/hello/logs?since=1h")
    assert (answer.status_code, answer.text) == (200, "")


async def test_followers_are_bounded() -> None:
    following = Following(most=1)

    async def read(after: str, wait_ms: int) -> list[tuple[str, int]]:
        return [(str(int(after) + 1), int(after))]

    following.admit()
    stream = following.follow(read, "0")
    assert await anext(stream) == ("1", 0)
    assert await anext(stream) == ("2", 1)
    with pytest.raises(Unavailable):
        following.admit()
    await stream.aclose()  # type: ignore[attr-defined]
    following.admit()
