"""HTTP request → event, result → HTTP response, as AWS API Gateway's payload format 2.0 has them.

Source of the contract: "Working with AWS Lambda proxy integrations for HTTP APIs", payload format 2.0.
Pure, and nothing but the standard library: the builder copies this very file into every image, where it serves
``docker run -p 8080:8080 IMAGE``. So an HTTP call gives the same event with and without a platform.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import urllib.parse
from functools import lru_cache

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",  # ours to compute
    }
)
LOCAL = frozenset({"127.0.0.1", "::1", ""})  # "": a unix socket
CLAIMS = ("forwarded", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-real-ip")
_TEXT = (
    "text/",
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-www-form-urlencoded",
)
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_CONTROL = frozenset(map(chr, (*range(0x09), *range(0x0A, 0x20), 0x7F)))  # all but the tab
_HEADERS_MAX, _HEADERS_MAX_BYTES = 200, 64 * 1024  # of a response: what a request may have; clients take no more
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def is_text(content_type: str) -> bool:
    """Does a body of this content type travel as text (else base64)? Nothing stated counts as text."""
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind.startswith(_TEXT) or kind.endswith(("+json", "+xml"))


def event(
    *,
    method: str,
    path: str,
    raw_query: str,
    headers: list[tuple[str, str]],
    body: bytes,
    source_ip: str,
    request_id: str,
    route_key: str = "$default",
    path_parameters: dict[str, str] | None = None,
    protocol: str = "HTTP/1.1",
    scheme: str = "",
    now_ms: int,
) -> bytes:
    """The JSON event of one HTTP request. `headers` are decoded pairs with lower-case names, in order.

    With a `scheme` ("http", "https") the event tells how the request came here in X-Forwarded-* headers.
    """
    merged, cookies = _merged(headers)
    host = merged.get("host", "")
    if scheme:
        _forward(merged, source_ip, scheme)
    document: dict[str, object] = {
        "version": "2.0",
        "routeKey": route_key,
        "rawPath": path,
        "rawQueryString": raw_query,
        "headers": merged,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "jiffy",
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": method,
                "path": path,
                "protocol": protocol,
                "sourceIp": source_ip,
                "userAgent": merged.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": route_key,
            "stage": "$default",
            "time": _moment(now_ms // 1000),
            "timeEpoch": now_ms,
        },
        "isBase64Encoded": False,
    }
    if cookies:
        document["cookies"] = cookies
    if raw_query:
        document["queryStringParameters"] = _query(raw_query)
    if path_parameters:
        document["pathParameters"] = path_parameters
    if body:
        document["body"], document["isBase64Encoded"] = _text_or_base64(body, merged.get("content-type", ""))
    return _encode(document).encode()


def _merged(headers: list[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Headers by name, those that are given several times joined by commas; and the cookies, which stand apart."""
    merged: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in headers:
        if name == "cookie":
            cookies.extend(part.strip() for part in value.split(";") if part.strip())
        else:
            merged[name] = f"{merged[name]},{value}" if name in merged else value
    return merged, cookies


@lru_cache(maxsize=4)  # thousands of calls share a second
def _moment(second: int) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second))


def _forward(headers: dict[str, str], source_ip: str, scheme: str) -> None:
    """What a client claims about its way is not passed on as if we knew it. A proxy on this host is believed; the last
    address of X-Forwarded-For is always the one that spoke to us.
    """
    if source_ip in LOCAL:
        headers.setdefault("x-forwarded-proto", scheme)
    else:
        for name in CLAIMS:
            headers.pop(name, None)
        headers["x-forwarded-proto"] = scheme
    claimed = headers.get("x-forwarded-for")
    headers["x-forwarded-for"] = f"{claimed}, {source_ip}" if claimed else source_ip


def _query(raw: str) -> dict[str, str]:
    """Parameters by name; those that are given several times are joined by commas."""
    query: dict[str, str] = {}
    for name, value in urllib.parse.parse_qsl(raw, keep_blank_values=True, max_num_fields=1000):
        query[name] = f"{query[name]},{value}" if name in query else value
    return query


def _text_or_base64(body: bytes, content_type: str) -> tuple[str, bool]:
    """The body as a string, and whether that is base64."""
    if is_text(content_type):
        try:
            return body.decode("utf-8"), False
        except UnicodeDecodeError:
            pass  # it claims to be text, and is not
    return base64.b64encode(body).decode("ascii"), True


def response(result: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """(status, headers, body) for a handler's JSON result.

    A JSON object with ``statusCode`` is a response in format 2.0; anything else is a 200 with the result as its
    ``application/json`` body. Raises ValueError, saying which part HTTP can't carry.
    """
    if b'"statusCode"' not in result:
        return 200, [("content-type", "application/json")], result
    document = json.loads(result)
    if not isinstance(document, dict) or "statusCode" not in document:
        return 200, [("content-type", "application/json")], result
    return _status(document["statusCode"]), _headers(document), _body(document)


def _status(value: object) -> int:
    try:
        status = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):  # the last: 1e999
        status = 0
    if not 200 <= status <= 599:
        raise ValueError(f"statusCode must be an integer from 200 to 599, not {_shown(value)}")
    return int(status)


def _headers(document: dict[str, object]) -> list[tuple[str, str]]:
    given = document.get("headers") or {}
    cookies = document.get("cookies") or []
    if not isinstance(given, dict):
        raise ValueError(f"headers must be an object, not {type(given).__name__}")
    if not isinstance(cookies, list):
        raise ValueError(f"cookies must be an array, not {type(cookies).__name__}")
    pairs: list[tuple[str, str]] = []
    several = document.get("multiValueHeaders")
    listed = _several(given, several) if several else [*given.items()]
    if len(listed) + len(cookies) > _HEADERS_MAX:
        raise ValueError(f"more than {_HEADERS_MAX} headers and cookies")
    for name, value in listed:
        lower = str(name).lower()
        if lower in HOP_BY_HOP or lower.startswith("jiffy-"):
            continue  # the connection and the Jiffy-* names are the platform's
        if not lower or not _TOKEN.issuperset(lower):
            raise ValueError(f"{_shown(name)} is no header name")
        pairs.append((lower, _header_value(name, value)))
    if not any(name == "content-type" for name, _ in pairs):
        pairs.append(("content-type", "application/json"))
    pairs.extend(("set-cookie", _header_value("cookies", cookie)) for cookie in cookies)
    if sum(len(name) + len(value) for name, value in pairs) > _HEADERS_MAX_BYTES:
        raise ValueError(f"headers and cookies of more than {_HEADERS_MAX_BYTES} bytes")
    return pairs


def _several(single: dict[str, object], several: object) -> list[tuple[str, object]]:
    """Headers together with those of `multiValueHeaders`, format 1.0's way to say a name more than once."""
    if not isinstance(several, dict) or not all(isinstance(values, list) for values in several.values()):
        raise ValueError("multiValueHeaders must be an object of arrays")
    names = {str(name).lower() for name in several}
    pairs = [(name, value) for name, value in single.items() if str(name).lower() not in names]
    return pairs + [(name, value) for name, values in several.items() for value in values]


def _shown(value: object) -> str:
    """For an error's text: a function may name things as large as its result."""
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


def _header_value(name: object, value: object) -> str:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, (str, int, float)):
        text = str(value)
    else:
        raise ValueError(f"header {_shown(name)} must be a string, not {type(value).__name__}")
    if not _CONTROL.isdisjoint(text):
        raise ValueError(f"header {_shown(name)} has a control character in it, such as a line break")
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"header {_shown(name)} has characters outside latin-1; percent-encode them") from None
    return text


def _body(document: dict[str, object]) -> bytes:
    body = document.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise ValueError(f"body must be a string, not {type(body).__name__}: use json.dumps for an object")
    if not document.get("isBase64Encoded"):
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"isBase64Encoded is set but body is not base64: {exc}") from None
