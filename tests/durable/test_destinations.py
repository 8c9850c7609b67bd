"""on_success and on_failure: functions and signed HTTP callbacks that hear how an asynchronous call ended."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.durable.acceptance import Bounds
from gateway.durable.callbacks import reachable, sign
from gateway.durable.deliveries import event
from gateway.durable.delivery_store import DeliveryStore
from invoker.sandbox import Reply
from jiffy.contract import checks, keys, limits, wire
from jiffy.contract.messages import DeadLetter, Delivery, Terms
from tests.durable.conftest import FAILED, Pair

pytestmark = pytest.mark.redis
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class Receiver:
    """An HTTP server that notes what it is told and answers as it is told to."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[str, dict[str, str], bytes]] = asyncio.Queue()
        self.answers: list[bytes] = []  # the next ones; then 204
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        writer.write(self.answers.pop(0) if self.answers else b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()
        self.requests.put_nowait((head[0], headers, body))

    async def told(self) -> tuple[str, dict[str, str], bytes]:
        return await asyncio.wait_for(self.requests.get(), 15)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


async def until_tally(pair: Pair, **counts: int) -> dict[str, int]:
    async with asyncio.timeout(15):
        while not counts.items() <= (tally := await pair.tally()).items():
            await asyncio.sleep(0.01)
    return tally


async def test_another_function_is_called_with_the_result_once(pair: Pair) -> None:
    await pair.deploy("hello", on_success="function:audit", on_failure="function:alarm")
    await pair.deploy("audit")
    heard: list[dict[str, Any]] = []

    def function(payload: bytes) -> Reply:
        document = json.loads(payload)
        if "requestContext" not in document:
            return Reply(True, b'{"sum":3}', 10)
        heard.append(document)
        return Reply(True, b"null", 10)

    pair.host.world.function = function
    invocation = await pair.call(event={"a": 1, "b": 2})
    tally = await until_tally(pair, done=2, delivered=1)
    assert (tally["accepted"], tally["destined"], tally["bytes"]) == (2, 1, 0)
    [document] = heard
    assert document["requestContext"] == {
        "requestId": invocation,
        "functionArn": "default:hello:1",
        "condition": "Success",
        "approximateInvokeCount": 1,
    }
    assert (document["requestPayload"], document["responsePayload"]) == ({"a": 1, "b": 2}, {"sum": 3})
    assert document["responseContext"] == {"statusCode": 200, "executedVersion": "1"}
    usage = (await pair.http.get("/v1/usage", params={"by": "call", "function": "audit"})).json()
    assert [row["trigger"] for row in usage["rows"]] == ["destination hello"]


async def test_a_dead_call_is_told_with_its_error(pair: Pair, receiver: Receiver) -> None:
    pair.served.gateway.durable.callbacks.allowed = LOOPBACK
    await pair.deploy(retries=0, on_failure=f"http://localhost:{receiver.port}/hook?token=t")
    pair.host.world.function = lambda _: FAILED
    invocation = await pair.call(event={"n": 1})
    line, headers, body = await receiver.told()
    assert line == "POST /hook?token=t HTTP/1.1"
    assert headers["host"] == f"localhost:{receiver.port}"
    document = json.loads(body)
    assert document["requestContext"]["condition"] == "RetriesExhausted"
    assert document["responseContext"]["functionError"] == "Unhandled"
    assert document["responsePayload"] == {"errorType": "ValueError", "errorMessage": "no"}
    assert headers["webhook-id"] == f"{invocation}.1"
    secret = (await pair.http.get("/v1/callback-secret")).json()["secret"]
    stamp = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"] == sign(secret, headers["webhook-id"], stamp, body)
    assert (await pair.end(invocation))["state"] == "dead", "it stays among the dead letters"
    await until_tally(pair, delivered=1)


async def test_a_callback_that_fails_is_made_again(pair: Pair, receiver: Receiver) -> None:
    pair.served.gateway.durable.callbacks.allowed = LOOPBACK
    receiver.answers = [b"HTTP/1.1 500 No\r\n\r\n", b"nonsense\r\n\r\n"]
    await pair.deploy(on_success=f"http://127.0.0.1:{receiver.port}/")
    await pair.call()
    first, second, third = [await quickly(pair, receiver) for _ in range(3)]
    assert first[1]["webhook-id"] == second[1]["webhook-id"] == third[1]["webhook-id"]
    assert first[2] == second[2] == third[2]
    await until_tally(pair, delivered=1)


async def quickly(pair: Pair, receiver: Receiver) -> tuple[str, dict[str, str], bytes]:
    """What the receiver is told next, though the next try be minutes away."""
    while receiver.requests.empty():
        for delivery, due_ms in await pair.redis.zrange(keys.DELIVERIES, 0, -1, withscores=True):
            packed = await pair.redis.hget(keys.DELIVERY_ITEMS, delivery)
            if packed and due_ms < await now_ms(pair) + 40_000:  # no lease, which lasts a minute
                await pair.redis.zadd(keys.DELIVERIES, {delivery: 1})
        await asyncio.sleep(0.02)
    return await receiver.told()


async def now_ms(pair: Pair) -> int:
    return int((await pair.redis.time())[0]) * 1000


@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::ffff:127.0.0.1]:{port}/"]
)
async def test_callbacks_do_not_reach_where_they_may_not(pair: Pair, receiver: Receiver, where: str) -> None:
    target = where.format(port=receiver.port)
    await pair.deploy(on_success=target)
    invocation = await pair.call()
    await until_tally(pair, undelivered=1)
    assert receiver.requests.empty()
    [letter] = (await pair.http.get("/v1/dlq")).json()["letters"]
    assert (letter["invocation"], letter["reason"], letter["target"]) == (f"{invocation}.1", "undelivered", target)
    assert "callbacks may not reach" in letter["error_message"]
    pair.served.gateway.durable.callbacks.allowed = LOOPBACK
    assert (await pair.http.post(f"/v1/dlq/{invocation}.1/replay")).json() == {"replayed": 1}
    assert json.loads((await receiver.told())[2])["requestContext"]["requestId"] == invocation
    tally = await until_tally(pair, delivered=1)
    assert (tally["redelivered"], tally["dead_bytes"]) == (1, 0)


async def test_a_host_that_cannot_be_is_given_up_at_once(pair: Pair) -> None:
    await pair.deploy(on_success=f"http://{'x' * 64}.example/")
    await pair.call()
    await until_tally(pair, undelivered=1)
    [letter] = (await pair.http.get("/v1/dlq")).json()["letters"]
    assert "can't be called" in letter["error_message"] and letter["attempts"] == 1


async def test_a_call_tells_who_has_not_heard_of_it_and_why(pair: Pair) -> None:
    await pair.deploy(on_success="function:nobody")
    invocation = await pair.call()
    async with asyncio.timeout(15):
        while not (untold := (await pair.show(invocation)).get("delivery", {"error": ""}))["error"]:
            await asyncio.sleep(0.01)
    assert (untold["target"], untold["tried"] > 0) == ("function:nobody", True)
    assert "there is no function 'nobody'" in untold["error"] and untold["due_ms"] > 0
    await pair.deploy("nobody")
    await until_tally(pair, delivered=1)
    assert "delivery" not in await pair.show(invocation)


async def test_functions_that_call_each_other_in_a_circle_end(pair: Pair) -> None:
    await pair.deploy("hello", on_success="function:hello")
    await pair.call()
    tally = await until_tally(pair, undelivered=1)
    assert tally["accepted"] == tally["done"] == limits.DESTINATIONS_DEEP + 1
    [letter] = (await pair.http.get("/v1/dlq")).json()["letters"]
    assert "in a circle" in letter["error_message"]


@pytest.mark.parametrize(
    ("address", "may"),
    [
        *((a, False) for a in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1")),
        *((a, False) for a in ("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1")),
        *((a, False) for a in ("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1")),
        *((a, False) for a in ("64:ff9b::a00:1", "2002:7f00:1::1", "2001:0:a00:1::1")),
        *((a, False) for a in ("2002:808:808::1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "4000::1")),
        *((a, False) for a in ("2001:db8::1", "3fff::1", "5f00::1", "2001:20::1", "::8.8.8.8")),
        *((a, True) for a in ("93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")),
    ],
)
def test_only_public_addresses_are_called_back(address: str, may: bool) -> None:
    assert reachable(ipaddress.ip_address(address)) is may
    assert reachable(ipaddress.ip_address("10.1.2.3"), (ipaddress.ip_network("10.0.0.0/8"),))


def test_the_signature_is_the_one_of_the_standard() -> None:
    """The example of the Standard Webhooks specification."""
    body = b'{"event_type":"ping","data":{"success":true}}'
    made = sign("whsec_plJ3nmyCDGBKInavdOK15jsl", "msg_loFOjxBNrRLzqYUf", 1731705121, body)
    assert made == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


@pytest.mark.parametrize("value", ["", "function:a-b", "https://example.com/x?y=1", "http://[2606:4700::1]:8080/"])
def test_destinations(value: str) -> None:
    assert checks.destination(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *(1, "hello", "function:", "function:A", "ftp://example.com", "https://", "https://user:pw@example.com"),
        *("https://example.com/a b", "https://example.com:99999", "https://ex\u00e4mple.com", "http://x/" + "y" * 3000),
    ],
)
def test_what_is_no_destination_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="function:NAME"):
        checks.destination(value)


def test_an_event_has_room_for_what_fits() -> None:
    large = b'"' + b"x" * (limits.PAYLOAD_MAX_BYTES // 2) + b'"'
    plain = Delivery(
        *("i.1", "function:a", "default", "hello", 1, "i", 1, "ok", "", 1_700_000_000_123, large, large, 1, Terms(1, 2))
    )
    made = event(plain)
    assert len(made) <= limits.PAYLOAD_MAX_BYTES
    document = json.loads(made)
    assert document["requestPayload"] is None and len(document["responsePayload"]) == len(large) - 2
    assert document["timestamp"] == "2023-11-14T22:13:20.123Z"
    assert json.loads(event(plain._replace(request=b"{broken", response=b"1")))["requestPayload"] is None


async def test_a_lease_that_has_passed_to_another_gateway_changes_nothing(pair: Pair) -> None:
    """As after SIGSTOP for longer than a lease: what the first one says comes too late."""
    await pair.served.gateway.loops.stop()
    store = DeliveryStore(pair.redis)
    plain = Delivery(
        *("i.1", "function:a", "default", "hello", 1, "i", 1, "ok", "", 1, b"{}", b"{}", 1, Terms(1, 2)),
    )
    await pair.redis.zadd(keys.DELIVERIES, {plain.id: 1})
    await pair.redis.hset(keys.DELIVERY_ITEMS, plain.id, wire.pack(plain))
    [paused] = await store.lease(8, -5_000)  # it is over already
    [second] = await store.lease(8, 60_000)
    assert await store.lease(8, 60_000) == []
    await store.delivered(paused)
    await store.again(paused, plain, 1)
    assert await pair.redis.zrange(keys.DELIVERIES, 0, -1, withscores=True) == [(b"i.1", second.lease)]
    await store.delivered(second)
    await store.delivered(second)
    assert (await pair.tally())["delivered"] == 1
    assert not await pair.redis.exists(keys.DELIVERIES, keys.DELIVERY_ITEMS)


def delivery(number: int, size: int = 2, target: str = "function:a") -> Delivery:
    terms = Terms(1, 2)
    return Delivery(
        *(f"i{number}.1", target, "default", "hello", 1, f"i{number}", 1, "ok", "", 1, b"x" * size, b"{}", 1, terms),
    )


async def test_what_waits_to_be_told_counts_in_the_backlog(pair: Pair, receiver: Receiver) -> None:
    """A destination that is away must not fill the queue; what it is told once it is there makes room again."""
    gateway = pair.served.gateway
    gateway.durable.callbacks.allowed = LOOPBACK
    receiver.answers = [b"HTTP/1.1 500 No\r\n\r\n"]
    await pair.deploy(on_success=f"http://127.0.0.1:{receiver.port}/")
    pair.host.world.function = lambda _: Reply(True, b'"' + b"x" * 20_000 + b'"', 10)
    gateway.durable.acceptance.bounds = Bounds(10, 10_000)
    await pair.call()
    await receiver.told()
    [packed] = (await pair.redis.hgetall(keys.DELIVERY_ITEMS)).values()
    assert (await pair.tally())["bytes"] == len(packed) > 20_000
    answer = await pair.http.post("/v1/functions/hello/invocations", params={"mode": "async"}, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "throttled")
    await quickly(pair, receiver)
    assert (await until_tally(pair, delivered=1))["bytes"] == 0
    await pair.call()


async def test_a_call_that_a_delivery_becomes_finds_room_in_a_full_backlog(pair: Pair) -> None:
    await pair.deploy(on_success="function:audit")
    await pair.deploy("audit")
    pair.host.world.function = lambda _: Reply(True, b'"' + b"x" * 20_000 + b'"', 10)
    pair.served.gateway.durable.acceptance.bounds = Bounds(10, 10_000)
    await pair.call()
    assert (await until_tally(pair, done=2, delivered=1))["bytes"] == 0


async def test_large_deliveries_are_leased_a_page_at_a_time(pair: Pair) -> None:
    await pair.served.gateway.loops.stop()
    store = DeliveryStore(pair.redis)
    for number in range(5):
        one = delivery(number, 7 * limits.MIB)
        await pair.redis.zadd(keys.DELIVERIES, {one.id: 1})
        await pair.redis.hset(keys.DELIVERY_ITEMS, one.id, wire.pack(one))
    pages = [len(await store.lease(64, 60_000)) for _ in range(3)]
    assert pages == [3, 2, 0]


async def test_dead_deliveries_make_way_by_the_rule_of_dead_calls(pair: Pair) -> None:
    await pair.served.gateway.loops.stop()
    store = DeliveryStore(pair.redis)
    kept_ms = limits.DEAD_KEEP_S * 1000
    for number, dead_ms in enumerate((1, 2, kept_ms + 2)):
        one = delivery(number)
        await pair.redis.zadd(keys.DELIVERIES, {one.id: 1})
        await pair.redis.hset(keys.DELIVERY_ITEMS, one.id, wire.pack(one))
        [leased] = await store.lease(1, 60_000)
        letter = DeadLetter(one.id, "default", "hello", 1, "undelivered", 1, 1, dead_ms, "ok", b"", "destination", 2)
        await store.undelivered(leased, letter)
    assert await pair.redis.zrange(keys.dead("default"), 0, -1) == [b"i2.1"]
    tally = await pair.tally()
    assert (tally["undelivered"], tally["dropped"]) == (3, 2)
    [call] = await pair.redis.hvals(keys.dead_calls("default"))
    assert tally["dead_bytes"] == len(call)


async def test_no_caller_can_take_the_key_of_a_delivery(pair: Pair) -> None:
    await pair.deploy("hello", on_success="function:audit")
    await pair.deploy("audit")
    invocation = await pair.call(delay="3600")
    path = "/v1/functions/audit/invocations"
    taken = {"Idempotency-Key": f"delivery {invocation}.1"}
    answer = await pair.http.post(path, params={"mode": "async"}, headers=taken, json={})
    assert answer.status_code == 202
    await pair.redis.zadd(keys.LATER, {invocation: 1})
    tally = await until_tally(pair, done=3, delivered=1)
    assert (tally["accepted"], tally["destined"], tally["bytes"]) == (3, 1, 0)
