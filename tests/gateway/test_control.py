"""Deploying and looking at functions over the API; health, metrics, and the description of it all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import Any

import pytest
from redis.asyncio import Redis
from starlette.routing import Route

from gateway.app import control
from jiffy.contract import keys, limits, wire
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import BuildEvent, BuildRequest, FunctionStatus, Layer
from tests.gateway.conftest import Invokers, Served
from tests.gateway.fake_invoker import answer, heartbeat, publish

pytestmark = pytest.mark.redis
ARCHIVE = b"\x1f\x8b a packed folder" * 1000
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()
SPEC = {"handler": "hello:handler", "memory_mb": 256}


async def upload(served: Served) -> str:
    answer = await served.http.put(f"/v1/sources/{DIGEST}", content=ARCHIVE)
    assert answer.status_code == 201
    source: str = answer.json()["source"]
    return source


def event(kind: str, step: str, **changes: Any) -> BuildEvent:
    return BuildEvent(kind, f"{step} …", step, 1, 2, False, 3)._replace(**changes)


# --- sources ------------------------------------------------------------------------------------------------


async def test_a_source_comes_in_once_and_is_kept_as_it_is(redis_url: str, served: Served) -> None:
    path = f"/v1/sources/{DIGEST}"
    assert (await served.http.head(path)).status_code == 404
    assert await upload(served) == f"sha256:{DIGEST}"
    assert (await served.http.head(path)).status_code == 200
    async with Redis.from_url(redis_url) as redis:
        assert await redis.get(keys.source("default", f"sha256:{DIGEST}")) == ARCHIVE
        assert 0 < await redis.ttl(keys.source("default", f"sha256:{DIGEST}")) <= limits.BUILD_KEEP_S


async def test_all_sources_together_are_bounded(redis_url: str, served: Served) -> None:
    other = keys.source("default", "sha256:" + "0" * 64)
    async with Redis.from_url(redis_url) as redis:
        await redis.set(other, b"large")
        await redis.hset(keys.SOURCES, other, str(limits.SOURCES_MAX_BYTES - len(ARCHIVE) + 1))
        answer = await served.http.put(f"/v1/sources/{DIGEST}", content=ARCHIVE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert "no room" in answer.json()["error"]["message"]
        assert (await served.http.head(f"/v1/sources/{DIGEST}")).status_code == 404
        await redis.delete(other)  # as its time does
        await upload(served)
        await upload(served)  # the same again takes no more
        assert await redis.hlen(keys.SOURCES) == 1


async def test_a_source_must_be_what_its_digest_says(served: Served) -> None:
    answer = await served.http.put(f"/v1/sources/{DIGEST}", content=ARCHIVE + b"!")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert (await served.http.head(f"/v1/sources/{DIGEST}")).status_code == 404
    assert (await served.http.put("/v1/sources/abc", content=b"")).status_code == 400
    assert served.gateway.admission.held == 0


async def test_a_source_that_is_too_large_is_413_stated_or_not(served: Served) -> None:
    async def chunks() -> Any:
        for _ in range(51):
            yield b"\0" * limits.MIB

    for content in (b"\0" * (limits.SOURCE_MAX_BYTES + 1), chunks()):
        answer = await served.http.put(f"/v1/sources/{DIGEST}", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert served.gateway.admission.held == 0


# --- deploying ----------------------------------------------------------------------------------------------


async def test_a_deploy_queues_a_build_and_its_events_can_be_followed(redis_url: str, served: Served) -> None:
    source = await upload(served)
    answer = await served.http.put("/v1/functions/hello", json={"spec": SPEC, "source": source})
    assert answer.status_code == 202
    build = answer.json()["build"]
    async with Redis.from_url(redis_url) as redis:
        [(_, fields)] = await redis.xrange(keys.BUILDS)
        request = wire.unpack(BuildRequest, fields[b"b"])
        assert (request.build, request.function, request.source) == (build, "hello", source)
        assert (request.spec["memory_mb"], request.spec["timeout_s"]) == (256, 3.0)

        seen: list[dict[str, Any]] = []
        async with served.http.stream("GET", answer.headers["location"]) as stream:
            assert stream.headers["content-type"] == "application/x-ndjson"
            lines = stream.aiter_lines()
            seen.append(json.loads(await anext(lines)))
            await redis.xadd(keys.build("default", build), {"e": wire.pack(event("step", "base", cached=True))})
            seen.append(json.loads(await anext(lines)))
            await redis.xadd(keys.build("default", build), {"e": wire.pack(event("done", "publish", revision=1))})
            seen += [json.loads(line) async for line in lines]
    assert [(e["kind"], e["step"]) for e in seen] == [("step", "queue"), ("step", "base"), ("done", "publish")]
    assert (seen[1]["cached"], seen[2]["revision"]) == (True, 1)

    again = await served.http.get(answer.headers["location"], params={"after": seen[1]["id"]})
    assert [json.loads(line)["kind"] for line in again.text.splitlines()] == ["done"]
    over = await served.http.get(answer.headers["location"], params={"after": seen[2]["id"]})
    assert over.text == "", "a build that is over has no more to tell"


@pytest.mark.parametrize(
    ("body", "code", "names"),
    [
        ({"spec": {"handler": "a:b", "memory": 1}, "source": "sha256:" + "0" * 64}, "invalid_spec", "memory_mb"),
        ({"spec": {}, "source": "sha256:" + "0" * 64}, "invalid_spec", "handler is missing"),
        ({"spec": {"handler": "a:b", "timeout_s": 9999}, "source": "x"}, "invalid_spec", "timeout_s = 9999"),
        ({"spec": SPEC, "source": "sha256:../../x"}, "invalid_request", "source"),
        ({"spec": SPEC, "sources": 1}, "invalid_request", "sources"),
        ([], "invalid_request", "object"),
    ],
)
async def test_a_mistake_in_a_deploy_is_named(served: Served, body: Any, code: str, names: str) -> None:
    answer = await served.http.put("/v1/functions/hello", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert names in answer.json()["error"]["message"]


async def test_what_a_deploy_needs(redis_url: str, served: Served) -> None:
    deploy = {"spec": SPEC, "source": f"sha256:{DIGEST}"}
    assert (await served.http.put("/v1/functions/hello", json=deploy)).status_code == 409, "an uploaded source"
    assert (await served.http.put("/v1/functions/hello", content=b"{")).status_code == 400
    assert (await served.http.put("/v1/functions/Not-A-Name", json=deploy)).status_code == 400
    assert (await served.http.put("/v1/functions/hello", content=b" " * 100_000)).status_code == 413
    async with Redis.from_url(redis_url) as redis:
        await redis.delete(keys.BUILDERS)
    await served.gateway.pulse.look()
    answer = await served.http.put("/v1/functions/hello", json=deploy)
    assert answer.status_code == 503, "a builder"
    assert "builder" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("build", ["nothing", "019a0000-0000-7000-8000-000000000000"])
async def test_an_unknown_build_is_404(served: Served, build: str) -> None:
    assert (await served.http.get(f"/v1/builds/{build}/events")).status_code == 404
    assert (await served.http.get(f"/v1/builds/{build}/events?after=x")).status_code == 400


# --- looking and removing -----------------------------------------------------------------------------------


async def test_functions_are_listed_shown_and_removed(redis_url: str, served: Served, invoker: Invokers) -> None:
    layers = (Layer("base", "sha256:aa", 1000), Layer("code", "sha256:bb", 20))
    await publish(redis_url, "hello", number=1)
    await publish(redis_url, "hello", number=2, layers=layers, routes=("GET /hi",), spec={"handler": "hello.handler"})
    await publish(redis_url, "other")
    await served.gateway.catalog.resync()
    listed = (await served.http.get("/v1/functions")).json()["functions"]
    assert [(f["name"], f["revision"], f["size_bytes"]) for f in listed] == [("hello", 2, 1020), ("other", 1, 0)]
    assert listed[0]["url"] == f"http://127.0.0.1:{served.port}/function/hello"

    shown = (await served.http.get("/v1/functions/hello")).json()
    assert shown["routes"] == ["GET /hi"]
    assert [(r["revision"], r["live"]) for r in shown["revisions"]] == [(2, True), (1, False)]
    assert shown["layers"] == [layer._asdict() for layer in layers]
    assert shown["spec"] == {"handler": "hello.handler"}

    async with invoker():
        assert (await served.http.get("/hi")).status_code == 200
        removed = await served.http.delete("/v1/functions/hello")
        assert (removed.status_code, removed.content) == (204, b"")
        for method, path in (("GET", "/v1/functions/hello"), ("DELETE", "/v1/functions/hello"), ("GET", "/hi")):
            assert (await served.http.request(method, path)).status_code == 404
        assert (await served.http.get("/function/hello")).status_code == 404
        assert (await served.http.get("/function/other")).status_code == 200


async def test_removing_a_function_lets_its_running_calls_finish(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await publish(redis_url)
    async with invoker(lambda call: None) as silent:
        waiting = asyncio.create_task(served.http.get("/function/hello"))
        await silent.seen.wait()
        assert (await served.http.delete("/v1/functions/hello")).status_code == 204
        [call] = silent.calls
        async with Redis.from_url(redis_url) as redis:
            await redis.rpush(keys.answers(call.gateway), wire.pack(answer(call)))
        assert (await waiting).status_code == 200


# --- health -------------------------------------------------------------------------------------------------


async def test_health_says_what_is_missing(redis_url: str, served: Served, invoker: Invokers) -> None:
    answer = await served.http.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "no invoker is alive"
    async with invoker() as fake:
        assert (await served.http.get("/healthz")).status_code == 200
        await fake.beat(draining=True)
        await served.gateway.pulse.look()
        drains = await served.http.get("/healthz")
        assert drains.status_code == 503
        assert drains.json()["error"]["message"].startswith("all invokers are draining; ")
        with pytest.raises(Unavailable, match="jiffy drain HOST --undo"):
            served.gateway.placement.place("default", "hello")
        async with Redis.from_url(redis_url) as redis:
            await redis.delete(keys.BUILDERS)
        await served.gateway.pulse.look()
        assert "no builder" in (await served.http.get("/healthz")).json()["error"]["message"]


async def test_heartbeats_of_the_dead_are_removed(redis_url: str, served: Served, invoker: Invokers) -> None:
    async with invoker() as fake, Redis.from_url(redis_url) as redis:
        await redis.hset(keys.INVOKERS, mapping={"rubbish": b"\xc1"})
        old = heartbeat("old", await fake.now_ms() - 61_000)
        silent = heartbeat("silent", await fake.now_ms() - 3_000)
        await redis.hset(keys.INVOKERS, mapping={"old": wire.pack(old), "silent": wire.pack(silent)})
        await served.gateway.pulse.look()
        assert set(await redis.hkeys(keys.INVOKERS)) == {b"inv-1", b"silent"}
        status = (await served.http.get("/v1/status")).json()
        assert [i["invoker"] for i in status["invokers"]] == ["inv-1"]
        assert [b["builder"] for b in status["builders"]] == ["b-1"]


async def test_metrics_count_calls(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker(lambda call: {"outcome": "timeout", "cold": True} if b'"n":3' in call.payload else {}):
        for n in range(4):
            await served.http.post("/v1/functions/hello/invocations", content=b'{"n":%d}' % n)
        text = (await served.http.get("/metrics")).text
    assert 'jiffy_calls_total{function="hello",outcome="ok"} 3' in text
    assert 'jiffy_calls_total{function="hello",outcome="timeout"} 1' in text
    assert 'jiffy_cold_calls_total{function="hello"} 1' in text
    assert 'jiffy_call_duration_seconds_bucket{function="hello",le="0.001"} 0' in text
    assert 'jiffy_call_duration_seconds_bucket{function="hello",le="0.0025"} 4' in text
    assert 'jiffy_call_duration_seconds_sum{function="hello"} 0.004936' in text
    assert "jiffy_invokers 1" in text
    assert all(
        re.fullmatch(r'(#.*|[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.]+)', t) for t in text.split("\n")[:-1]
    )


async def test_metrics_tell_what_invokers_say_of_themselves(redis_url: str, served: Served, invoker: Invokers) -> None:
    one = FunctionStatus("default", "hello", 1, 2, 3, 4, 0, 10, 100, 5)
    waits = (90, *[0] * 12, 10), 5_000_000
    async with invoker() as fake:
        await fake.beat(
            functions=(one,),
            stems_wanted={"python3.11": 3},
            decisions={"fork": 7},
            histograms={"queue_wait": waits, "cold_import": ((1,), 5)},  # the second one is another release's
        )
        await served.gateway.pulse.look()
        text = (await served.http.get("/metrics")).text
        status = (await served.http.get("/v1/status")).json()
    assert 'jiffy_stems{invoker="inv-1",runtime="python3.11",state="ready"} 2' in text
    assert 'jiffy_stems{invoker="inv-1",runtime="python3.11",state="wanted"} 3' in text
    assert 'jiffy_instances{invoker="inv-1",state="frozen"} 4' in text
    assert 'jiffy_pool_decisions_total{invoker="inv-1",decision="fork"} 7' in text
    assert 'jiffy_queue_wait_seconds_bucket{invoker="inv-1",le="0.0005"} 90' in text
    assert 'jiffy_queue_wait_seconds_count{invoker="inv-1"} 100' in text
    assert 'jiffy_queue_wait_seconds_sum{invoker="inv-1"} 5.000000' in text
    assert "phase=" not in text
    assert status["invokers"][0]["decisions"] == {"fork": 7}


async def test_a_host_is_told_to_drain_and_to_go_on(redis_url: str, served: Served, invoker: Invokers) -> None:
    async with invoker() as fake, Redis.from_url(redis_url) as redis:
        answer = await served.http.post(f"/v1/invokers/{fake.name}/drain")
        assert (answer.status_code, answer.json()) == (202, {"invoker": fake.name, "drain": True})
        assert await redis.smembers(keys.DRAINS) == {fake.name.encode()}
        assert (await served.http.delete(f"/v1/invokers/{fake.name}/drain")).status_code == 202
        assert await redis.smembers(keys.DRAINS) == set()
        unknown = await served.http.post("/v1/invokers/nobody/drain")
        assert unknown.status_code == 404 and "jiffy status" in unknown.json()["error"]["message"]


# --- the description ----------------------------------------------------------------------------------------


async def test_openapi_describes_every_route_and_no_other(served: Served) -> None:
    document = (await served.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    app = control(served.gateway.endpoints)
    routed = {
        (method, route.path) for route in app.routes if isinstance(route, Route) for method in route.methods or ()
    }
    routed -= {("HEAD", path) for method, path in routed if method == "GET"}  # comes with every GET
    calls = {(m, p) for m, p in described if p.startswith("/function/") or p.endswith("/invocations")}
    assert described - calls == routed
    assert len(calls) == 2 * 7 + 1


async def test_openapi_is_true_what_it_names_exists_and_asks_for_the_key_it_says(served: Served) -> None:
    document = (await served.http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        concrete = re.sub(r"\{\w+\}", "nobody", path)
        for method in operations:
            answer = await served.http.request(method, concrete)
            assert answer.status_code not in (405, 500, 501), (method, path)
            if answer.status_code == 404 and method != "head":
                told = answer.json()["error"]["message"]
                assert "nobody" in told or told == "there is no such webhook", (method, path)
            if answer.status_code != 200 and method != "head":
                described = operations[method]["responses"]
                assert str(answer.status_code) in described, (method, path, answer.status_code)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/functions", {"GET", "HEAD"}),
        ("PATCH", "/v1/functions/hello", {"GET", "HEAD", "PUT", "DELETE"}),
        ("GET", f"/v1/sources/{DIGEST}", {"HEAD", "PUT"}),
        ("DELETE", "/healthz", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_405_with_those_allowed(
    served: Served, method: str, path: str, allow: set[str]
) -> None:
    answer = await served.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allow


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/v1/functions/", "/function", "/healthz/x", "/v1/x/y/invocations"]
)
async def test_what_does_not_exist_is_404_as_json(served: Served, path: str) -> None:
    answer = await served.http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
