"""Topics over HTTP: what is published reaches every subscriber that wants it, again when asked, and never in a loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jiffy.contract import limits, triggers
from tests.gateway.conftest import Invokers, Served
from tests.gateway.fake_invoker import FakeInvoker, publish
from tests.gateway.test_triggers import until

EVENT: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "data": {"n": 1}}
STRUCTURED = {"content-type": "application/cloudevents+json"}


async def deploy(served: Served, redis_url: str, name: str, *tables: dict[str, Any]) -> None:
    full = [{"type": "topic", "retry_delay_s": 0.0} | table for table in tables]
    await publish(redis_url, name, spec={"triggers": list(triggers.check(full))})
    await served.gateway.catalog.refresh("default", name)
    for table in full:
        await until(served, f"/v1/triggers/{name}/{table.get('name', 'topic')}", lambda d: d["state"] == "active")
    async with asyncio.timeout(10):
        while sum(t.id.function == name for t in served.gateway.triggers.queues.serving()) < len(full):
            await asyncio.sleep(0.01)


async def send(served: Served, topic: str, *, status: int = 202, **changes: Any) -> dict[str, Any]:
    content = json.dumps(EVENT | changes).encode()
    answer = await served.http.post(f"/v1/topics/{topic}/events", content=content, headers=STRUCTURED)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def received(fake: FakeInvoker, count: int) -> list[tuple[str, Any]]:
    async with asyncio.timeout(20):
        while len(fake.calls) < count:
            await asyncio.sleep(0.01)
    return sorted(((call.trigger, json.loads(call.payload)) for call in fake.calls), key=str)


async def test_every_subscriber_gets_what_it_wants_in_the_shape_it_wants(
    served: Served, invoker: Invokers, redis_url: str
) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, "audit", {"name": "a", "topic": "orders", "filter": {"type": ["order.paid"]}})
        await deploy(served, redis_url, "index", {"name": "b", "topic": "*", "shape": "eventbridge"})
        await deploy(served, redis_url, "mail", {"name": "c", "topic": "orders", "shape": "sns", "batch_size": 5})
        await send(served, "orders", type="order.made", id="0")
        (first,) = (await send(served, "orders"))["ids"]
        found = await received(fake, 5)
        (a,) = [event for trigger, event in found if trigger == "topic a"]
        assert (a["id"], a["type"], a["data"]) == ("1", "order.paid", {"n": 1})
        b = [event for trigger, event in found if trigger == "topic b"]
        assert sorted(event["detail-type"] for event in b) == ["order.made", "order.paid"]
        c = [record for trigger, event in found if trigger == "topic c" for record in event["Records"]]
        assert [json.loads(record["Sns"]["Message"]) for record in c] == [{"n": 1}] * 2
        assert c[-1]["Sns"]["MessageId"] == f"orders:{first}"
        shown = (await served.http.get("/v1/topics/orders")).json()
        assert (shown["events"], shown["subscriptions"]) == (2, ["audit/a", "index/b", "mail/c"])


async def test_a_paused_subscriber_misses_nothing_and_a_replay_reads_again(
    served: Served, invoker: Invokers, redis_url: str
) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, "audit", {"topic": "orders"})
        await send(served, "orders", id="1")
        await received(fake, 1)
        await served.http.post("/v1/triggers/audit/topic/pause")
        async with asyncio.timeout(10):
            while served.gateway.triggers.queues.serving():
                await asyncio.sleep(0.01)
        await send(served, "orders", id="2")
        await served.http.post("/v1/triggers/audit/topic/resume")
        assert [event["id"] for _, event in await received(fake, 2)] == ["1", "2"]
        kept = (await served.http.get("/v1/topics/orders/events")).json()["events"]
        assert [one["event"]["id"] for one in kept] == ["1", "2"]
        since = (await served.http.get("/v1/topics/orders")).json()["first"]
        answer = await served.http.post("/v1/triggers/audit/topic/replay", json={"since": since})
        assert (answer.status_code, answer.json()["topics"]) == (200, ["orders"])
        assert sorted(event["id"] for _, event in await received(fake, 4)) == ["1", "1", "2", "2"]


async def test_what_fails_is_an_event_of_the_dead_topic(served: Served, invoker: Invokers, redis_url: str) -> None:
    def work(_: Any) -> dict[str, Any]:
        return {"outcome": "error", "payload": b'{"errorType": "E", "errorMessage": "m"}'}

    async with invoker(work):
        await deploy(served, redis_url, "audit", {"topic": "orders", "tries": 2})
        await send(served, "orders")
        await until(served, "/v1/triggers/audit/topic", lambda d: d["dead"] == 1)
        (dead,) = (await served.http.get("/v1/topics/dead.audit.topic/events")).json()["events"]
        assert dead["event"]["id"] == "1"


async def test_results_are_published_and_a_loop_ends(served: Served, invoker: Invokers, redis_url: str) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, "echo", {"topic": "ping", "publish_to": "ping"})
        await send(served, "ping")
        entries = f"/v1/triggers/echo/{'topic'}/logs"
        await until(served, entries, lambda d: any("a loop" in e["text"] for e in d["entries"]))
        events = [json.loads(call.payload) for call in fake.calls]
        assert len(events) == limits.TOPIC_HOPS_MAX + 1
        assert (events[1]["type"], events[1]["source"], events[1]["data"]) == (
            "echo.result",
            "/functions/echo",
            {"hello": "world"},
        )
        assert events[1]["id"] == fake.calls[0].invocation


async def test_a_schema_holds_for_what_is_published(served: Served) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    answer = await served.http.put("/v1/topics/orders", json={"keep_s": 60, "schema": schema})
    assert answer.status_code == 200, answer.text
    await send(served, "orders")
    refused = await send(served, "orders", status=400, data={"n": "one"})
    assert "event 1: data/n is not what orders takes" in refused["error"]["message"]
    assert (await served.http.get("/v1/topics/orders")).json()["events"] == 1
    batch = json.dumps([EVENT, EVENT | {"data": {}}]).encode()
    headers = {"content-type": "application/cloudevents-batch+json"}
    answer = await served.http.post("/v1/topics/orders/events", content=batch, headers=headers)
    assert (answer.status_code, "event 2" in answer.text) == (400, True)
    assert (await served.http.get("/v1/topics/orders")).json()["events"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "part"),
    [
        ("PUT", "/v1/topics/Orders", {}, 400, "a topic such as"),
        ("PUT", "/v1/topics/orders", {"keep": 3}, 400, "keep_s"),
        ("PUT", "/v1/topics/orders", {"keep_s": 0}, 400, "allowed: 1 to"),
        ("PUT", "/v1/topics/orders", {"schema": {"type": "nonsense"}}, 400, "no JSON Schema"),
        ("PUT", "/v1/topics/orders", {"schema": {"$ref": "http://127.0.0.1:1/x"}}, 400, "a place in this schema"),
        ("GET", "/v1/topics/nothing", None, 404, "there is no topic"),
        ("DELETE", "/v1/topics/nothing", None, 404, "there is no topic"),
        ("POST", "/v1/topics/orders/events", {}, 400, "no CloudEvent"),
        ("POST", "/v1/triggers/nobody/topic/replay", {"since": "2027-01-01T00:00:00Z"}, 404, "no topic trigger"),
    ],
)
async def test_what_is_wrong_is_said(served: Served, method: str, path: str, body: Any, status: int, part: str) -> None:
    answer = (
        await served.http.request(method, path, json=body)
        if body is not None
        else await served.http.request(method, path)
    )
    assert (answer.status_code, part in answer.text) == (status, True), answer.text


async def test_a_schema_that_explodes_is_refused_and_a_large_event_is_not_held_against_many(served: Served) -> None:
    defs: dict[str, Any] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(40)
    }
    bomb = {"$defs": defs | {"d40": {"const": 1}}, "$ref": "#/$defs/d0"}
    refused = await served.http.put("/v1/topics/orders", json={"schema": bomb})
    assert refused.status_code == 400 and "more than" in refused.json()["error"]["message"]
    many = {"items": {"enum": list(range(5000))}}
    assert (await served.http.put("/v1/topics/orders", json={"schema": many})).status_code == 200
    await send(served, "orders", data=[1, 2])
    assert "/1 is not what" in (await send(served, "orders", data=[1, "x"], status=400))["error"]["message"]
    assert "too many parts" in (await send(served, "orders", data=[0] * 10_000, status=413))["error"]["message"]


@pytest.mark.parametrize("since", ["0001-01-01", "9999-12-31T23:59:59-14:00"])
async def test_events_since_no_time_at_all(served: Served, since: str) -> None:
    await send(served, "orders")
    answer = await served.http.get("/v1/topics/orders/events", params={"since": since})
    assert answer.status_code == 400 and "since" in answer.json()["error"]["message"]


async def test_a_topic_that_has_become_quiet_forgets_and_its_subscribers_hear_what_is_new(
    served: Served, invoker: Invokers, redis_url: str
) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, "audit", {"topic": "orders"})
        assert (await served.http.put("/v1/topics/orders", json={"keep_s": 1})).status_code == 200
        await send(served, "orders", id="old")
        await received(fake, 1)
        async with asyncio.timeout(20):
            while (await served.http.get("/v1/topics/orders")).json()["events"]:
                await asyncio.sleep(0.05)
        await send(served, "orders", id="new")
        assert [event["id"] for _, event in await received(fake, 2)] == ["new", "old"]
        shown = (await served.http.get("/v1/triggers/audit/topic")).json()
        assert (shown["failed"], shown["error"]) == (0, "")
