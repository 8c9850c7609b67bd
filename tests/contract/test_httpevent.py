"""HTTP ⇄ event as API Gateway's payload format 2.0 has it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from jiffy.contract import httpevent


def made(**given: Any) -> dict[str, Any]:
    request: dict[str, Any] = {
        "method": "GET",
        "path": "/",
        "raw_query": "",
        "headers": [("host", "api.example.com")],
        "body": b"",
        "source_ip": "192.0.2.1",
        "request_id": "id",
        "now_ms": 1_700_000_000_123,
    } | given
    document: dict[str, Any] = json.loads(httpevent.event(**request))
    return document


def test_the_request_is_all_there() -> None:
    event = made(method="POST", path="/a b", headers=[("host", "h.example"), ("user-agent", "test")])
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/a b"
    assert event["requestContext"]["http"] == {
        "method": "POST",
        "path": "/a b",
        "protocol": "HTTP/1.1",
        "sourceIp": "192.0.2.1",
        "userAgent": "test",
    }
    assert event["requestContext"]["timeEpoch"] == 1_700_000_000_123
    assert event["requestContext"]["time"] == "14/Nov/2023:22:13:20 +0000"
    assert "body" not in event and "cookies" not in event and "queryStringParameters" not in event


def test_repeated_headers_and_queries_are_joined_by_commas_and_cookies_stand_apart() -> None:
    event = made(
        headers=[("x", "1"), ("x", "2"), ("cookie", "a=1; b=2"), ("cookie", "c=3")], raw_query="k=1&k=2&empty=&enc=%20"
    )
    assert event["headers"] == {"x": "1,2"}
    assert event["cookies"] == ["a=1", "b=2", "c=3"]
    assert event["rawQueryString"] == "k=1&k=2&empty=&enc=%20"
    assert event["queryStringParameters"] == {"k": "1,2", "empty": "", "enc": " "}


@pytest.mark.parametrize(
    ("content_type", "body", "binary"),
    [
        ("application/json", b'{"a":1}', False),
        ("text/plain; charset=utf-8", "ä".encode(), False),
        ("application/problem+json", b"{}", False),
        ("", b"plain", False),
        ("text/plain", b"\xff\xfe", True),
        ("image/jpeg", b"\xff\xd8", True),
        ("application/octet-stream", b"text", True),
    ],
)
def test_a_body_is_text_where_its_type_says_so_and_it_is(content_type: str, body: bytes, binary: bool) -> None:
    event = made(headers=[("content-type", content_type)], body=body)
    assert event["isBase64Encoded"] is binary
    assert (base64.b64decode(event["body"]) if binary else event["body"].encode()) == body


def test_a_result_without_a_status_is_a_200_with_it_as_json() -> None:
    for result in (b'{"message":"hi"}', b'"text"', b"[1]", b"null", b'{"nested":{"statusCode":500}}'):
        assert httpevent.response(result) == (200, [("content-type", "application/json")], result)


def test_a_full_response() -> None:
    result = {
        "statusCode": "201",
        "headers": {"X-Made": True, "Content-Type": "text/plain"},
        "cookies": ["a=1; Path=/", "b=2"],
        "body": "made",
    }
    assert httpevent.response(json.dumps(result).encode()) == (
        201,
        [("x-made", "true"), ("content-type", "text/plain"), ("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2")],
        b"made",
    )


def test_a_binary_response() -> None:
    result = {"statusCode": 200, "body": base64.b64encode(b"\x00\xff").decode(), "isBase64Encoded": True}
    assert httpevent.response(json.dumps(result).encode())[2] == b"\x00\xff"


def test_headers_of_several_values() -> None:
    result = {
        "statusCode": 200,
        "headers": {"X-One": "1", "X-Two": "lost"},
        "multiValueHeaders": {"x-two": ["a", 2], "Set-Cookie": ["a=1", "b=2"], "Connection": ["close"]},
    }
    assert httpevent.response(json.dumps(result).encode())[1] == [
        *(("x-one", "1"), ("x-two", "a"), ("x-two", "2"), ("set-cookie", "a=1"), ("set-cookie", "b=2")),
        ("content-type", "application/json"),
    ]


CLAIMED = [
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "bank.example"),
    ("forwarded", "for=6.6.6.6"),
    ("x-real-ip", "6.6.6.6"),
]


def test_what_a_client_claims_about_its_way_is_not_believed() -> None:
    event = made(scheme="http", headers=CLAIMED)
    assert event["headers"] == {"x-forwarded-for": "6.6.6.6, 192.0.2.1", "x-forwarded-proto": "http"}
    assert made(scheme="https", headers=[])["headers"] == {
        "x-forwarded-for": "192.0.2.1",
        "x-forwarded-proto": "https",
    }


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_a_proxy_on_this_host_is_believed(peer: str) -> None:
    headers = made(scheme="http", headers=CLAIMED, source_ip=peer)["headers"]
    assert headers == dict(CLAIMED) | {"x-forwarded-for": f"6.6.6.6, {peer}"}


def test_headers_that_are_the_platforms_are_dropped() -> None:
    headers = {"Connection": "close", "Content-Length": "5", "Jiffy-Billed-Ms": "0", "x": "kept"}
    _, pairs, _ = httpevent.response(json.dumps({"statusCode": 200, "headers": headers}).encode())
    assert pairs == [("x", "kept"), ("content-type", "application/json")]


@pytest.mark.parametrize(
    ("response", "part"),
    [
        ({"statusCode": 99}, "statusCode"),
        ({"statusCode": None}, "statusCode"),
        ({"statusCode": float("inf")}, "statusCode"),  # as 1e999 arrives
        ({"statusCode": "9" * 100_000}, "^.{,200}$"),
        ({"statusCode": 200, "headers": {f"h{n}": "" for n in range(201)}}, "more than 200 headers and cookies"),
        ({"statusCode": 200, "cookies": ["a"] * 400_000}, "more than 200 headers and cookies"),
        ({"statusCode": 200, "multiValueHeaders": {"a": ["b"] * 400_000}}, "more than 200 headers and cookies"),
        ({"statusCode": 200, "headers": {"a": "b" * 70_000}}, "more than 65536 bytes"),
        ({"statusCode": 200, "headers": {"a b" * 10_000: "c"}}, "^.{,200}$"),
        ({"statusCode": 200, "headers": []}, None),
        ({"statusCode": 200, "headers": [1]}, "headers must be an object"),
        ({"statusCode": 200, "multiValueHeaders": {"a": "b"}}, "multiValueHeaders must be an object of arrays"),
        ({"statusCode": 200, "multiValueHeaders": [1]}, "multiValueHeaders must be an object of arrays"),
        ({"statusCode": 200, "multiValueHeaders": {"a": [{}]}}, "must be a string"),
        ({"statusCode": 200, "headers": {"a b": "c"}}, "no header name"),
        ({"statusCode": 200, "headers": {"a": "b\r\nevil: 1"}}, "control character"),
        ({"statusCode": 200, "headers": {"a": "漢"}}, "latin-1"),
        ({"statusCode": 200, "headers": {"a": {}}}, "must be a string"),
        ({"statusCode": 200, "cookies": "a=1"}, "cookies must be an array"),
        ({"statusCode": 200, "cookies": ["a\nb"]}, "control character"),
        ({"statusCode": 200, "body": {"a": 1}}, "json.dumps"),
        ({"statusCode": 200, "body": "!", "isBase64Encoded": True}, "base64"),
    ],
)
def test_what_http_cannot_carry_is_named(response: dict[str, Any], part: str | None) -> None:
    result = json.dumps(response).encode()
    if part is None:
        assert httpevent.response(result)[0] == 200
        return
    with pytest.raises(ValueError, match=part):
        httpevent.response(result)
