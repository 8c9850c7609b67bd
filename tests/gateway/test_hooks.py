"""Signed deliveries over HTTP: verified before a function runs, run once, their body as it came."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from jiffy.contract import keys, triggers
from tests.contract.test_webhooks import signed
from tests.gateway.conftest import Invokers, Served, serving
from tests.gateway.fake_invoker import builder_beat, publish

PATH = "/v1/hooks/hear/gh"


async def deploy(served: Served, redis_url: str, scheme: str = "github") -> None:
    table = {"type": "webhook", "name": "gh", "scheme": scheme, "secret_env": "SECRET"}
    await publish(redis_url, "hear", spec={"triggers": list(triggers.check([table]))}, env={"SECRET": "s3cret"})
    await served.gateway.catalog.refresh("default", "hear")


async def test_a_genuine_delivery_runs_once_with_its_raw_body(
    served: Served, invoker: Invokers, redis_url: str
) -> None:
    body = b'{"a":   1}\n'
    async with invoker() as fake:
        await deploy(served, redis_url)
        headers = signed("github", body) | {"x-github-event": "push", "content-type": "application/json"}
        first = await served.http.post(PATH, content=body, headers=headers)
        again = await served.http.post(PATH, content=body, headers=headers)
        assert (first.status_code, first.json()["repeated"]) == (202, False)
        assert again.json() == {"invocation": first.json()["invocation"], "repeated": True}
        async with asyncio.timeout(5):
            await fake.seen.wait()
        (call,) = fake.calls
        event: dict[str, Any] = json.loads(call.payload)
        assert (call.trigger, call.mode, event["body"]) == ("webhook gh", "async", body.decode())
        assert event["headers"]["x-github-event"] == "push"
        shown = (await served.http.get("/v1/triggers/hear/gh")).json()
        assert (shown["fired"], shown["options"]["secret_env"]) == (1, "SECRET")
        assert "s3cret" not in (await served.http.get("/v1/triggers")).text


async def test_what_is_not_genuine_runs_nothing(served: Served, invoker: Invokers, redis_url: str) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url)
        for headers, part in (
            ({}, "x-hub-signature-256 is missing"),
            (signed("github", b"other"), "is not of this body and secret"),
        ):
            answer = await served.http.post(PATH, content=b"{}", headers=headers)
            assert (answer.status_code, part in answer.text) == (401, True), answer.text
        for path in ("/v1/hooks/hear/other", "/v1/hooks/nobody/gh"):
            answer = await served.http.post(path, content=b"{}", headers=signed("github", b"{}"))
            assert (answer.status_code, "no such webhook" in answer.text) == (404, True)
        assert (await served.http.get(PATH)).status_code == 405
        await served.http.post("/v1/triggers/hear/gh/pause")
        answer = await served.http.post(PATH, content=b"{}", headers=signed("github", b"{}"))
        assert answer.status_code == 404
        assert fake.calls == []


async def test_slack_hears_its_challenge_back(served: Served, redis_url: str) -> None:
    await deploy(served, redis_url, "slack")
    body = b'{"type": "url_verification", "challenge": "3eZbrw1a"}'
    now_s = served.gateway.store.now_ms() // 1000
    answer = await served.http.post(PATH, content=body, headers=signed("slack", body, now_s))
    assert (answer.status_code, answer.text) == (200, "3eZbrw1a")


async def test_the_signature_is_the_key_and_opens_nothing_else(redis_url: str, data_dir: Path) -> None:
    await builder_beat(redis_url)
    async with serving(redis_url, data_dir, api_key="k3y") as served:
        await deploy(served, redis_url)
        for path in (PATH, PATH + "/../../../functions", "/v1/hooks/../functions"):
            answer = await served.http.post(path, content=b"{}")
            assert answer.status_code in (401, 404, 405), answer.text
            assert "functions" not in answer.json()
        assert (await served.http.get("/v1/triggers")).status_code == 401


async def test_nobody_waits_for_the_body_of_what_is_not_signed_and_it_is_counted(
    served: Served, redis_url: str
) -> None:
    await deploy(served, redis_url)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000000\r\n\r\n{{".encode())
    async with asyncio.timeout(10):
        assert (await reader.readline()).split()[1] == b"401"
    writer.close()
    counted = 'jiffy_trigger_events_total{function="hear",trigger="gh",event="refused"} 1'
    assert counted in (await served.http.get("/metrics")).text


async def test_a_webhooks_counters_go_with_its_function(served: Served, invoker: Invokers, redis_url: str) -> None:
    async with invoker():
        await deploy(served, redis_url)
        await served.http.post(PATH, content=b"{}", headers=signed("github", b"{}"))
        assert (await served.http.get("/v1/triggers/hear/gh")).json()["fired"] == 1
        assert (await served.http.delete("/v1/functions/hear")).status_code == 204
        async with Redis.from_url(redis_url, protocol=2) as redis, asyncio.timeout(10):
            while await redis.exists(keys.trigger("default", "hear", "gh")):
                await asyncio.sleep(0.01)
        await deploy(served, redis_url)
        assert (await served.http.get("/v1/triggers/hear/gh")).json()["fired"] == 0
