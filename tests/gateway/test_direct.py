"""Calls with a JSON event that come whole in one piece: they go the short way, and nobody notices but by the clock."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.benchmarks.load import request
from tests.gateway.conftest import Invokers, Served
from tests.gateway.fake_invoker import publish

PATH = "/v1/functions/hello/invocations"


async def one_piece(port: int, *requests: bytes) -> list[tuple[int, dict[str, str], Any]]:
    """The answers to these requests, sent at once on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(requests))
    found = []
    for _ in requests:
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        found.append((int(head.split()[1]), headers, json.loads(body)))
    writer.close()
    return found


@pytest.mark.redis
async def test_events_in_one_piece_are_answered_accepted_or_refused_as_any_other(
    served: Served, invoker: Invokers, redis_url: str
) -> None:
    await publish(redis_url)
    async with invoker():
        sync, queued, *refused = await one_piece(
            served.port,
            request("POST", PATH, b'{"n":1}'),
            request("POST", f"{PATH}?mode=async", b'{"n":2}'),
            request("POST", f"{PATH}?mode=async", b"{"),
            request("POST", f"{PATH}?mode=asink", b"{}"),
            request("POST", f"{PATH}?mode=async&retries=x", b"{}"),
            request("POST", f"{PATH}?revision=2", b"{}"),
            request("GET", PATH),
            request("POST", "/v1/functions/helo/invocations", b"{}"),
        )
        assert sync[0] == 200 and sync[2] == {"hello": "world"} and sync[1]["jiffy-outcome"] == "ok"
        invocation = queued[2]["invocation"]
        assert queued[0] == 202 and queued[1]["location"] == f"/v1/invocations/{invocation}"
        assert queued[1]["jiffy-invocation-id"] == invocation and queued[1]["jiffy-revision"] == "1"
        assert [status for status, _, _ in refused] == [400, 400, 400, 404, 405, 404]
        assert "jiffy-invocation-id" in refused[0][1] and "must be JSON" in refused[0][2]["error"]["message"]


@pytest.mark.redis
async def test_a_key_in_one_piece_is_one_call(served: Served, invoker: Invokers, redis_url: str) -> None:
    await publish(redis_url)
    async with invoker():
        first, again, other = [
            (await one_piece(served.port, keyed(request("POST", f"{PATH}?mode=async", body))))[0]
            for body in (b'{"n":1}', b'{"n":1}', b'{"n":2}')
        ]
    assert first[0] == again[0] == 202 and again[2] == first[2]
    assert again[1]["idempotent-replayed"] == "true" and "idempotent-replayed" not in first[1]
    assert other[0] == 422 and "jiffy-invocation-id" in other[1]


def keyed(plain: bytes) -> bytes:
    return plain.replace(b"\r\n\r\n", b"\r\nidempotency-key: k\r\n\r\n", 1)


@pytest.mark.redis
async def test_a_full_backlog_refuses_in_one_piece(served: Served, invoker: Invokers, redis_url: str) -> None:
    await publish(redis_url)
    acceptance = served.gateway.durable.acceptance
    call = request("POST", f"{PATH}?mode=async", b'"four"')
    async with invoker(lambda call: None):
        acceptance.bounds = acceptance.bounds._replace(calls=2)
        statuses = [status for status, _, _ in await one_piece(served.port, *[call] * 4)]
        assert sorted(statuses) == [202, 202, 429, 429]
        acceptance.bounds = acceptance.bounds._replace(calls=100, payload_bytes=18)
        (accepted, _, _), (refused, headers, said) = await one_piece(served.port, call, call)
        assert (accepted, refused) == (202, 429)
        assert headers["retry-after"] == "5" and "waiting" in said["error"]["message"]
