"""http triggers over HTTP: what the gateway does before a function runs, in its stead, and with its answer."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import rates
from gateway.representation import takes_gzip
from jiffy.contract import edges, triggers
from jiffy.contract.messages import Call
from tests.gateway.conftest import Invokers, Served, serving
from tests.gateway.fake_invoker import publish, running

PAGE = "https://app.example"


async def deploy(served: Served, redis_url: str, *tables: dict[str, Any], **changes: Any) -> None:
    declared = triggers.check([{"type": "http"} | table for table in tables])
    routes = edges.every_route(changes.pop("routes", ()), declared)
    await publish(redis_url, "api", routes=routes, spec={"triggers": list(declared)}, **changes)
    await served.gateway.catalog.refresh("default", "api")


def says(body: str, status: int = 200, **headers: str) -> Any:
    result = {"statusCode": status, "headers": {"content-type": "text/plain"} | headers, "body": body}
    return lambda call: {"payload": json.dumps(result).encode()}


def event_of(call: Call) -> dict[str, Any]:
    return dict(json.loads(call.payload))


async def preflight(served: Served, path: str, origin: str = PAGE, method: str = "PUT", wants: str = "") -> Any:
    headers = {"origin": origin, "access-control-request-method": method}
    if wants:
        headers["access-control-request-headers"] = wants
    return await served.http.options(path, headers=headers)


# --- routes -----------------------------------------------------------------------------------------------------


async def test_methods_greedy_paths_and_hosts(redis_url: str, served: Served, invoker: Invokers) -> None:
    await deploy(
        served,
        redis_url,
        {"path": "/files/{rest+}", "methods": ["GET", "PUT"]},
        {"path": "/files/{rest+}", "host": "localhost", "methods": ["GET"]},
    )
    async with invoker() as fake:
        assert (await served.http.get("/files/a/b")).status_code == 200
        await served.http.get("/files/c", headers={"host": f"LOCALHOST:{served.port}"})
        await served.http.put("/files/d", headers={"host": "localhost"})
        assert [call.trigger for call in fake.calls] == [
            *("route GET /files/{rest+}", "route GET localhost/files/{rest+}", "route PUT /files/{rest+}")
        ]
        assert event_of(fake.calls[0])["pathParameters"] == {"rest": "a/b"}
        refused = await served.http.post("/files/a")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, PUT")


async def test_a_route_goes_when_its_trigger_does(redis_url: str, served: Served, invoker: Invokers) -> None:
    async with invoker():
        await deploy(served, redis_url, {"path": "/a", "response": {"body": "old"}})
        assert (await served.http.get("/a")).text == "old"
        await deploy(served, redis_url, {"path": "/b", "response": {"body": "new"}}, number=2)
        assert (await served.http.get("/a")).status_code == 404
        assert (await served.http.get("/b")).text == "new"


# --- instead of a call ------------------------------------------------------------------------------------------


async def test_fixed_responses_and_redirects_run_nothing(redis_url: str, served: Served) -> None:
    await deploy(
        served,
        redis_url,
        {"path": "/robots.txt", "response": {"body": "Disallow: /", "headers": {"Cache-Control": "max-age=60"}}},
        {"path": "/old/{rest+}", "redirect": {"to": "https://new.example/{rest}", "status": 301}},
        {"path": "/here/{rest+}", "redirect": "/{rest}"},
        {"path": "/find/{word}", "redirect": {"to": "/search?q={word}", "status": 302}},
    )
    text = await served.http.get("/robots.txt")
    assert (text.status_code, text.text, text.headers["cache-control"]) == (200, "Disallow: /", "max-age=60")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await served.http.head("/robots.txt")).text == ""
    moved = await served.http.get("/old/a/b%20c?x=1&y=%C3%BC")
    assert (moved.status_code, moved.headers["location"]) == (301, "https://new.example/a/b%20c?x=1&y=%C3%BC")
    assert (await served.http.get("/find/cat?x=1")).headers["location"] == "/search?q=cat"
    for path in ("/here//evil.test", "/here/%2F/evil.test", "/here/\\evil.test"):
        raw = await served.http.get(httpx.URL(str(served.http.base_url), raw_path=path.encode()))
        assert raw.status_code == 308
        assert not raw.headers["location"].startswith(("//", "/\\")), "it would lead to another site"


# --- bounds -----------------------------------------------------------------------------------------------------


async def test_a_body_may_be_bounded_per_route(redis_url: str, served: Served, invoker: Invokers) -> None:
    await deploy(served, redis_url, {"path": "/a", "body_max_bytes": 10}, {"body_max_bytes": 20})

    async def chunks() -> Any:
        yield b"12345678"
        yield b"12345678"

    async with invoker() as fake:
        assert (await served.http.post("/a", content=b"1" * 10)).status_code == 200
        for content in (b"1" * 11, chunks()):
            refused = await served.http.post("/a", content=content)
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "payload_too_large")
        assert (await served.http.post("/function/api/x", content=b"1" * 20)).status_code == 200
        assert (await served.http.post("/function/api", content=b"1" * 21)).status_code == 413
        assert len(fake.calls) == 2
    assert (served.gateway.admission.calls, served.gateway.admission.held) == (0, 0)


async def test_a_rate_holds_over_all_gateways(
    redis_url: str, served: Served, invoker: Invokers, tmp_path: Path
) -> None:
    await deploy(served, redis_url, {"path": "/a", "rate_per_s": 0.01, "burst": 3}, {"path": "/b"})
    async with invoker(), serving(redis_url, tmp_path, name="gw-2") as other:
        answers = await asyncio.gather(*(one.http.get("/a") for one in (served, other) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 5
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["code"] == "throttled"
        assert 0 < int(refused.headers["retry-after"]) <= 100
        assert (await served.http.get("/b")).status_code == 200
        assert 'function="api",outcome="throttled"' in (await served.http.get("/metrics")).text


async def test_a_rate_per_client(redis_url: str, served: Served, invoker: Invokers) -> None:
    await deploy(served, redis_url, {"path": "/a", "rate_per_s": 0.01, "burst": 1, "rate_per": "client"})
    async with invoker():
        for address, status in (
            ("192.0.2.1", 200),
            ("192.0.2.1", 429),
            ("192.0.2.2", 200),
            ("9.9.9.9, 192.0.2.1", 429),
        ):
            answer = await served.http.get("/a", headers={"x-forwarded-for": address})
            assert answer.status_code == status, address


@pytest.mark.parametrize(
    ("spoke", "forwarded", "who"),
    [
        ("198.51.100.7", b"192.0.2.1", "198.51.100.7"),  # what a stranger claims counts for nothing
        ("127.0.0.1", b"6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", b"", "127.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", b"", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", b"", "192.0.2.1"),
        ("127.0.0.1", b"x" * 5000, "unknown"),
    ],
)
def test_who_a_client_is(spoke: str, forwarded: bytes, who: str) -> None:
    headers = [(b"x-forwarded-for", forwarded)] if forwarded else []
    assert rates.client({"client": (spoke, 1), "headers": headers}) == who


# --- pages of other sites ----------------------------------------------------------------------------------------

CORS = {"origins": [PAGE, "https://*.good.example"], "credentials": True, "expose": ["x-total"], "headers": ["x-a"]}


async def test_a_preflight_is_answered_by_the_gateway(redis_url: str, served: Served) -> None:
    await deploy(
        served,
        redis_url,
        {"path": "/a", "methods": ["GET", "PUT"], "cors": CORS},
        {"path": "/open", "cors": {"origins": ["*"]}},
        {"cors": CORS},
    )
    for path in ("/a", "/function/api/x"):
        allowed = await preflight(served, path, wants="x-a")
        assert (allowed.status_code, allowed.content) == (204, b"")
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert allowed.headers["access-control-allow-headers"] == "x-a"
        assert allowed.headers["access-control-allow-credentials"] == "true"
        assert allowed.headers["access-control-max-age"] == "600"
        names = "access-control-request-method, access-control-request-headers"
        assert allowed.headers.get_list("vary") == [f"origin, {names}"]
    assert (await preflight(served, "/a")).headers["access-control-allow-methods"] == "GET, PUT"
    assert (await preflight(served, "/a", method="PATCH")).headers["access-control-allow-methods"] == "GET, PUT"
    refused = await preflight(served, "/a", origin="https://evil.test")
    assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)
    anyone = await preflight(served, "/open", origin="https://evil.test", wants="x-b, x-c")
    assert anyone.headers["access-control-allow-origin"] == "*"
    assert anyone.headers["access-control-allow-headers"] == "x-b, x-c"
    assert "PUT" in anyone.headers["access-control-allow-methods"]


async def test_an_allowed_page_may_read_answers_and_errors(redis_url: str, served: Served, invoker: Invokers) -> None:
    """Also where the gateway has no key, and so refuses pages otherwise: whoever deployed let this one in."""
    table = {"path": "/a", "cors": CORS, "body_max_bytes": 3}
    await deploy(served, redis_url, table, routes=("GET /plain",))
    page = {"origin": "https://x.good.example", "sec-fetch-site": "cross-site"}
    async with invoker(says("hi", **{"Access-Control-Allow-Origin": "*", "X-Total": "7"})):
        answer = await served.http.post("/a", headers=page)
        assert (answer.status_code, answer.text) == (200, "hi")
        assert answer.headers.get_list("access-control-allow-origin") == ["https://x.good.example"]
        assert answer.headers["access-control-expose-headers"] == "x-total"
        error = await served.http.post("/a", headers=page, content=b"four")
        assert (error.status_code, error.headers["access-control-allow-origin"]) == (413, "https://x.good.example")
        for path, origin in (("/a", "https://evil.test"), ("/plain", page["origin"])):
            refused = await served.http.get(path, headers=page | {"origin": origin})
            assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)
        rebound = await served.http.get("/a", headers=page | {"host": "evil.test"})
        assert rebound.status_code == 403
        own = await served.http.get("/a")
        assert "access-control-allow-origin" not in own.headers
        assert own.headers["vary"] == "origin"


async def test_with_a_key_a_preflight_needs_none_and_its_request_does(redis_url: str, data_dir: Path) -> None:
    async with running(redis_url), serving(redis_url, data_dir, api_key="s3cret") as served:
        await deploy(served, redis_url, {"path": "/a", "cors": CORS, "response": {"body": "ok"}}, routes=("GET /b",))
        assert (await preflight(served, "/a")).status_code == 204
        assert (await preflight(served, "/b")).status_code == 401
        refused = await served.http.get("/a", headers={"origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        opened = await served.http.get("/a", headers={"origin": PAGE, "x-api-key": "s3cret"})
        assert (opened.status_code, opened.text) == (200, "ok")


# --- how answers travel ------------------------------------------------------------------------------------------


async def test_text_is_packed_for_who_takes_it(redis_url: str, served: Served, invoker: Invokers) -> None:
    await deploy(served, redis_url, {"path": "/a", "compress": True}, {"path": "/plain"})
    text = "jiffy " * 20_000
    async with invoker(says(text)) as fake:
        for accepts in ("gzip", "br;q=1, *;q=0.1"):
            answer = await served.http.get("/a", headers={"accept-encoding": accepts})
            assert (answer.text, answer.headers["content-encoding"]) == (text, "gzip")
            assert answer.headers["vary"] == "accept-encoding"
            assert int(answer.headers["content-length"]) < len(text) // 20
        for path, accepts in (("/a", "identity"), ("/a", "gzip;q=0, *"), ("/plain", "gzip")):
            answer = await served.http.get(path, headers={"accept-encoding": accepts})
            assert (answer.text, "content-encoding" in answer.headers) == (text, False)
        for refused in (
            says("short"),
            says(text, **{"content-type": "image/png"}),
            says(text, **{"cache-control": "private, no-transform"}),
        ):
            fake.work = refused
            answer = await served.http.get("/a", headers={"accept-encoding": "gzip"})
            assert "content-encoding" not in answer.headers
        packed = {
            "statusCode": 200,
            "headers": {"content-type": "text/plain", "content-encoding": "gzip"},
            "body": base64.b64encode(gzip.compress(text.encode())).decode(),
            "isBase64Encoded": True,
        }
        fake.work = lambda call: {"payload": json.dumps(packed).encode()}
        assert (await served.http.get("/a", headers={"accept-encoding": "gzip"})).text == text, "packed once"


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        (b"", False),
        (b"gzip", True),
        (b"deflate, GZIP;q=0.5", True),
        (b"gzip;q=0", False),
        (b"*", True),
        (b"*;q=0", False),
        (b"gzip;q=x", False),
        (b"br", False),
    ],
)
def test_who_takes_gzip(accepted: bytes, takes: bool) -> None:
    assert takes_gzip(accepted) is takes


async def test_who_has_the_body_already_gets_304(redis_url: str, served: Served, invoker: Invokers) -> None:
    await deploy(served, redis_url, {"path": "/a", "etag": True, "compress": True})
    async with invoker(says("x" * 2000, **{"cache-control": "no-cache"})) as fake:
        first = await served.http.get("/a")
        tag = first.headers["etag"]
        assert first.headers["content-encoding"] == "gzip"
        for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
            same = await served.http.get("/a", headers={"if-none-match": known})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag), known
            assert same.headers["cache-control"] == "no-cache"
            assert "content-type" not in same.headers
        assert (await served.http.get("/a", headers={"if-none-match": '"other"'})).status_code == 200
        assert (await served.http.post("/a", headers={"if-none-match": tag})).status_code == 200
        fake.work = says("y" * 2000)
        assert (await served.http.get("/a", headers={"if-none-match": tag})).headers["etag"] != tag
        fake.work = says("z" * 2000, etag='"mine"')
        assert (await served.http.get("/a")).headers["etag"] == 'W/"mine"', "packed it is no longer byte for byte"
        assert (await served.http.get("/a", headers={"if-none-match": '"mine"'})).status_code == 304
        fake.work = says("gone", 404)
        assert "etag" not in (await served.http.get("/a")).headers


# --- WebSocket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/function/api", "/a", "/plain"])
async def test_a_websocket_is_refused_with_a_reason(
    redis_url: str, served: Served, invoker: Invokers, path: str
) -> None:
    await deploy(served, redis_url, {"path": "/a"}, routes=("GET /plain",))
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with invoker() as fake:
        refused = await served.http.get(path, headers=upgrade)
        assert (refused.status_code, refused.json()["error"]["code"]) == (501, "not_offered")
        assert "WebSockets are not offered" in refused.json()["error"]["message"]
        assert not fake.calls
        assert (await served.http.get(path, headers=upgrade | {"upgrade": "h2c"})).status_code == 200
