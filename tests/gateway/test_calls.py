"""Calls over HTTP, as their callers see them: every outcome, every status, every header."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest

from gateway.__main__ import Gateway
from jiffy.contract import limits
from jiffy.contract.messages import Call
from tests.gateway.conftest import Invokers, Served, serving
from tests.gateway.fake_invoker import publish, running

pytestmark = pytest.mark.redis
FAILED = b'{"errorType":"ValueError","errorMessage":"no","stackTrace":[]}'
INVOKE = "/v1/functions/hello/invocations"


def event_of(call: Call) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(call.payload)
    return document


async def test_a_functions_url_answers_with_its_result(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker() as fake:
        answer = await served.http.get("/function/hello")
        assert (answer.status_code, answer.json()) == (200, {"hello": "world"})
        headers = answer.headers
        assert headers["content-type"] == "application/json"
        assert headers["jiffy-invocation-id"] == fake.calls[0].invocation
        assert headers["jiffy-duration-ms"] == "1.234"
        assert headers["jiffy-billed-ms"] == "100"
        assert headers["jiffy-cold"] == "false"
        assert headers["jiffy-outcome"] == "ok"
        assert headers["jiffy-revision"] == "1"
        assert "jiffy-init-ms" not in headers


async def test_a_cold_call_says_what_the_start_took(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker(lambda call: {"cold": True, "init_us": 5_020}):
        headers = (await served.http.get("/function/hello")).headers
        assert (headers["jiffy-cold"], headers["jiffy-init-ms"]) == ("true", "5.020")


async def test_the_event_is_the_request(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker() as fake:
        await served.http.post(
            "/function/hello/a%20b/c?x=1&x=2&empty=",
            headers=[("X-Two", "1"), ("X-Two", "2"), ("Cookie", "a=1; b=2"), ("X-Forwarded-For", "6.6.6.6")],
            json={"n": 1},
        )
        [call] = fake.calls
        event = event_of(call)
        assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", "$default", "/a b/c")
        assert event["queryStringParameters"] == {"x": "1,2", "empty": ""}
        assert event["headers"]["x-two"] == "1,2"
        assert event["headers"]["x-forwarded-for"] == "6.6.6.6, 127.0.0.1"
        assert event["headers"]["x-forwarded-proto"] == "http"
        assert event["cookies"] == ["a=1", "b=2"]
        assert json.loads(event["body"]) == {"n": 1}
        assert event["requestContext"]["requestId"] == call.invocation
        assert event["requestContext"]["http"]["sourceIp"] == "127.0.0.1"
        assert event["requestContext"]["http"]["method"] == "POST"
        assert call.trigger == "http"
        assert call.deadline_ms - call.accepted_ms == limits.WAIT_MAX_S * 1000 + 3000


async def test_a_binary_body_comes_as_base64(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    body = bytes(range(256)) * 1000
    async with invoker() as fake:
        await served.http.put("/function/hello", content=body, headers={"content-type": "image/jpeg"})
        event = event_of(fake.calls[0])
        assert event["isBase64Encoded"]
        assert base64.b64decode(event["body"]) == body


async def test_a_response_in_format_2_is_the_response(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    result = {
        "statusCode": 201,
        "headers": {"Content-Type": "image/png", "X-Own": "1", "Jiffy-Cold": "forged", "Connection": "close"},
        "cookies": ["a=1; Secure", "b=2"],
        "body": base64.b64encode(b"\x89PNG\0").decode(),
        "isBase64Encoded": True,
    }
    async with invoker(lambda call: {"payload": json.dumps(result).encode()}):
        answer = await served.http.get("/function/hello")
        assert (answer.status_code, answer.content) == (201, b"\x89PNG\0")
        assert answer.headers.get_list("set-cookie") == ["a=1; Secure", "b=2"]
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["jiffy-cold"] == "false"
        assert "connection" not in answer.headers


async def test_head_has_no_body_and_the_connection_lives_on(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker():
        for _ in range(2):
            answer = await served.http.head("/function/hello")
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-length"] == "17"
        assert (await served.http.get("/function/hello")).json() == {"hello": "world"}


async def test_204_has_no_body(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker(lambda call: {"payload": b'{"statusCode":204,"body":"ignored"}'}):
        for _ in range(2):
            answer = await served.http.get("/function/hello")
            assert (answer.status_code, answer.content) == (204, b"")
            assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "http_status", "invoke_status"),
    [
        ({"outcome": "error"}, 502, 200),
        ({"outcome": "crash"}, 502, 200),
        ({"outcome": "out_of_memory"}, 502, 200),
        ({"outcome": "timeout"}, 504, 200),
    ],
)
async def test_a_function_that_fails(
    redis_url: str, served: Served, invoker: Invokers, changes: dict[str, Any], http_status: int, invoke_status: int
) -> None:
    await publish(redis_url)
    async with invoker(lambda call: {**changes, "payload": FAILED}):
        over_http = await served.http.get("/function/hello")
        raw = await served.http.post(INVOKE, json={})
    assert (over_http.status_code, raw.status_code) == (http_status, invoke_status)
    for answer in (over_http, raw):
        assert answer.content == FAILED
        assert answer.headers["jiffy-outcome"] == changes["outcome"]
        assert answer.headers["jiffy-billed-ms"] == "100"
    assert raw.headers["jiffy-function-error"] == "Unhandled"


@pytest.mark.parametrize("path", ["/function/hello", INVOKE])
async def test_a_throttled_call_says_when_to_come_again(
    redis_url: str, served: Served, invoker: Invokers, path: str
) -> None:
    await publish(redis_url)
    why = b'{"errorType":"Jiffy.Throttled","errorMessage":"max_instances = 1 are busy"}'
    changes = {"outcome": "throttled", "payload": why, "billed_ms": 0, "duration_us": 0, "retry_after_s": 2.3}
    async with invoker(lambda call: changes):
        answer = await served.http.post(path)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["jiffy-billed-ms"] == "0"
    assert answer.json() == {
        "error": {"code": "throttled", "message": "max_instances = 1 are busy", "retry_after_s": 3}
    }
    assert "jiffy-function-error" not in answer.headers


@pytest.mark.parametrize("path", ["/function/hello", INVOKE])
@pytest.mark.parametrize("changes", [{"outcome": "platform", "payload": FAILED}, {"outcome": "of a later release"}])
async def test_a_call_that_the_platform_failed(
    redis_url: str, served: Served, invoker: Invokers, path: str, changes: dict[str, Any]
) -> None:
    await publish(redis_url)
    async with invoker(lambda call: changes):
        answer = await served.http.post(path)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "platform_error"
    assert answer.headers["jiffy-invocation-id"]


@pytest.mark.parametrize(
    "result",
    [b'{"statusCode":"soon"}', b'{"statusCode":200,"body":{}}', b'{"statusCode":200,"headers":{"a":"\\r\\n"}}'],
)
async def test_what_http_cannot_carry_is_the_functions_failure(
    redis_url: str, served: Served, invoker: Invokers, result: bytes
) -> None:
    await publish(redis_url)
    async with invoker(lambda call: {"payload": result}):
        answer = await served.http.get("/function/hello")
        assert answer.status_code == 502
        assert answer.json()["errorType"] == "Jiffy.BadResponse"
        assert answer.headers["jiffy-outcome"] == "error"
        assert (await served.http.post(INVOKE)).content == result, "any JSON is a result"


async def test_declared_routes(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url, "hello", routes=("GET /hello/{name}", "POST /hello/{name}", "ANY /files/{path+}"))
    async with invoker() as fake:
        await served.gateway.catalog.resync()
        assert (await served.http.get("/hello/J%C3%BCrgen%2FB?x=1")).status_code == 200
        event = event_of(fake.calls[0])
        assert event["routeKey"] == "GET /hello/{name}"
        assert event["pathParameters"] == {"name": "Jürgen/B"}
        assert fake.calls[0].trigger == "route GET /hello/{name}"
        assert (await served.http.delete("/files/a/b.txt")).status_code == 200
        assert event_of(fake.calls[1])["pathParameters"] == {"path": "a/b.txt"}
        wrong = await served.http.delete("/hello/x")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
        assert wrong.json()["error"]["code"] == "method_not_allowed"
        missing = await served.http.get("/nothing/here")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/function/nobody", "/function/nobody/x", "/function/", "/function/No%20Body"])
async def test_an_unknown_function_is_404(served: Served, path: str) -> None:
    answer = await served.http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_unknown_function_is_404_in_both_modes(served: Served, mode: str) -> None:
    assert (await served.http.post("/v1/functions/nobody/invocations", params={"mode": mode})).status_code == 404


async def test_a_function_that_was_just_published_is_found_at_once(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    async with invoker():
        await publish(redis_url, "fresh", tell=False)
        assert (await served.http.get("/function/fresh")).status_code == 200


async def test_no_invoker_is_503(redis_url: str, served: Served) -> None:
    await publish(redis_url)
    answer = await served.http.get("/function/hello")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["jiffy-invocation-id"]


async def test_too_many_calls_in_flight_are_503(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    served.gateway.admission.calls_max = 1
    async with invoker(lambda call: None) as fake:
        waiting = asyncio.create_task(served.http.get("/function/hello"))
        await fake.seen.wait()
        refused = await served.http.get("/function/hello")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        waiting.cancel()


@pytest.mark.parametrize("path", ["/function/hello", INVOKE])
async def test_a_body_that_is_too_large_is_413(redis_url: str, served: Served, invoker: Invokers, path: str) -> None:
    await publish(redis_url)

    async def chunks() -> Any:
        for _ in range(7):
            yield b"1" * limits.MIB

    async with invoker() as fake:
        for content in (b"1" * (limits.PAYLOAD_MAX_BYTES + 1), chunks()):
            answer = await served.http.post(path, content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
        assert (await served.http.post(INVOKE, content=b"1" * limits.PAYLOAD_MAX_BYTES)).status_code == 200
        assert len(fake.calls) == 1
        too_large_as_event = b"\xff" * (limits.PAYLOAD_MAX_BYTES - 100)
        answer = await served.http.post("/function/hello", content=too_large_as_event)
        assert answer.status_code == 413
    assert (served.gateway.admission.calls, served.gateway.admission.held) == (0, 0)


async def test_any_json_is_an_event(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker() as fake:
        for event in (b"{}", b"[1,2]", b'"text"', b"null", b"12.5", b' {"a": "\xc3\xbc"} '):
            assert (await served.http.post(INVOKE, content=event)).status_code == 200
            assert fake.calls[-1].payload == event
        await served.http.post(INVOKE)
        assert fake.calls[-1].payload == b"{}", "nothing sent is an empty object"
        assert fake.calls[-1].trigger == "invoke"


@pytest.mark.parametrize("event", [b"{", b"NaN", b"\xff", b"[1,]", b"[" * 100_000, b'{"a":1} x'])
async def test_what_is_no_json_is_400(redis_url: str, served: Served, invoker: Invokers, event: bytes) -> None:
    await publish(redis_url)
    async with invoker() as fake:
        answer = await served.http.post(INVOKE, content=event)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert not fake.calls


async def test_a_stated_revision_is_called(redis_url: str, served: Served, invoker: Invokers) -> None:
    old = await publish(redis_url, number=1)
    await publish(redis_url, number=2)
    async with invoker() as fake:
        assert (await served.http.post(INVOKE)).headers["jiffy-revision"] == "2"
        answer = await served.http.post(INVOKE, params={"revision": 1})
        assert answer.headers["jiffy-revision"] == "1"
        assert old.digest.encode() in fake.calls[-1].revision
        assert (await served.http.post(INVOKE, params={"revision": 3})).status_code == 404
        for wrong in ("0", "-1", "x", "1e3", "9" * 30):
            assert (await served.http.post(INVOKE, params={"revision": wrong})).status_code == 400
        assert (await served.http.post(INVOKE, params={"mode": "later"})).status_code == 400
        wrong_method = await served.http.get(INVOKE)
        assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")


async def test_an_asynchronous_call(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    go = asyncio.Event()
    async with invoker(lambda call: None) as fake:
        answer = await served.http.post(INVOKE, params={"mode": "async"}, json={"n": 1})
        assert answer.status_code == 202
        invocation = answer.json()["invocation"]
        assert answer.headers["location"] == f"/v1/invocations/{invocation}"
        await fake.seen.wait()
        state = (await served.http.get(answer.headers["location"])).json()
        assert (state["state"], state["attempts"], state["function"], state["revision"]) == ("queued", 0, "hello", 1)
        assert (fake.calls[0].mode, fake.calls[0].gateway) == ("async", "")
        go.set()
    async with invoker(name="inv-1") as fake:
        answer = await served.http.post(INVOKE, params={"mode": "async"}, json={"n": 2})
        while (state := (await served.http.get(answer.headers["location"])).json())["state"] != "done":
            await asyncio.sleep(0.01)
        assert (state["outcome"], state["result"], state["attempts"]) == ("ok", {"hello": "world"}, 1)
        assert (state["duration_ms"], state["billed_ms"]) == (1.234, 100)


async def test_a_synchronous_call_is_found_in_the_ledger(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    async with invoker():
        answer = await served.http.get("/function/hello")
        found = await served.http.get(f"/v1/invocations/{answer.headers['jiffy-invocation-id']}")
    document = found.json()
    assert (document["state"], document["outcome"], document["attempts"]) == ("done", "ok", 1)
    assert document["duration_ms"] == 1.234
    for unknown in ("019a0000-0000-7000-8000-000000000000", "rubbish", "..%2f"):
        assert (await served.http.get(f"/v1/invocations/{unknown}")).status_code == 404
    short = await served.http.get("/v1/invocations/ec90f4")
    assert short.status_code == 404 and "an id has 36 characters" in short.json()["error"]["message"]


async def test_a_key_guards_calls_and_control_and_never_reaches_a_function(redis_url: str, data_dir: Any) -> None:
    await publish(redis_url, routes=("GET /hello",))
    async with running(redis_url) as fake, serving(redis_url, data_dir, api_key="s3cret") as served:
        for method, path in (
            ("GET", "/function/hello"),
            ("GET", "/hello"),
            ("GET", "/nothing"),
            ("POST", INVOKE),
            ("GET", "/v1/functions"),
            ("GET", "/v1/usage"),
            ("GET", "/metrics"),
            ("DELETE", "/v1/functions/hello"),
        ):
            refused = await served.http.request(method, path)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["error"]["code"] == "unauthorized"
        assert (await served.http.get("/healthz")).status_code in (200, 503)
        opened = await served.http.get("/function/hello", headers={"authorization": "Bearer s3cret", "x-own": "kept"})
        assert opened.status_code == 200
        assert (await served.http.get("/v1/functions", headers={"x-api-key": "s3cret"})).status_code == 200
        assert "s3cret" not in json.dumps(event_of(fake.calls[0]))
        assert event_of(fake.calls[0])["headers"]["x-own"] == "kept"


async def test_many_callers_at_once_each_get_their_own_answer(
    redis_url: str, served: Served, invoker: Invokers
) -> None:
    await publish(redis_url)

    def echo(call: Call) -> dict[str, Any]:
        return {"payload": call.payload}

    async with invoker(echo):

        async def one(n: int) -> None:
            answer = await served.http.post(INVOKE, json={"n": n})
            assert answer.json() == {"n": n}

        await asyncio.gather(*(one(n) for n in range(120)))
    assert isinstance(served.gateway, Gateway)
    assert served.gateway.admission.calls == 0


async def test_a_client_that_hangs_up_leaves_nothing_behind(redis_url: str, served: Served, invoker: Invokers) -> None:
    await publish(redis_url)
    go = {"now": False}
    async with invoker(lambda call: {} if go["now"] else None) as fake:
        with pytest.raises(httpx.ReadTimeout):
            await served.http.get("/function/hello", timeout=0.2)
        assert fake.calls
        go["now"] = True
        assert (await served.http.get("/function/hello")).status_code == 200
