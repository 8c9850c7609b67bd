"""An event as an HTTP request, a response as a result: how a function that is an HTTP server gets its calls. Pure.

An HTTP event (payload format 2.0) becomes the request that it tells of, and the response goes back whole, whatever its
status. Any other event is a POST to / with the event as its JSON body, as Knative and OpenFaaS send it; a status from
400 on is then the function's error, and a JSON body its result.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple
from urllib.parse import quote

from jiffy.contract import httpevent

from .refusal import error_json

ID_HEADER = "jiffy-invocation-id"
_ERROR_BODY_CHARS = 1000  # of a refusal's body that an error quotes
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_OURS = httpevent.HOP_BY_HOP | {"host", "cookie", "expect", ID_HEADER}


class TooLong(Exception):
    """A response beyond its bounds; the message is the error's."""


class Request(NamedTuple):
    method: str
    head: bytes  # request line and headers, with the empty line
    body: bytes
    http: bool  # the event was an HTTP request


class Response(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]  # names in lower case
    body: bytes


def request(invocation: str, event: bytes, port: int) -> Request:
    """The request that an event is. Raises ValueError for an HTTP event that can't be one."""
    try:
        document = json.loads(event) if b'"requestContext"' in event else None
    except (ValueError, RecursionError):
        document = None
    http = _http(document)
    if http is None or document is None:
        headers = [("host", f"127.0.0.1:{port}"), ("content-type", "application/json"), (ID_HEADER, invocation)]
        return Request("POST", _head("POST", "/", headers, len(event)), event, False)
    method = http.get("method")
    if not isinstance(method, str) or not method or not _TOKEN.issuperset(method):
        raise ValueError("its method is none")
    body = _body(document)
    given = document.get("headers") or {}
    if not isinstance(given, dict):
        raise ValueError("headers must be an object")
    headers = [("host", str(given.get("host") or f"127.0.0.1:{port}"))]
    headers += [(str(name).lower(), str(value)) for name, value in given.items() if str(name).lower() not in _OURS]
    cookies = document.get("cookies")
    if isinstance(cookies, list) and cookies:
        headers.append(("cookie", "; ".join(map(str, cookies))))
    headers.append((ID_HEADER, invocation))
    target = quote(str(document.get("rawPath") or "/"), safe="/:@!$&'()*+,;=~-._")
    if not target.startswith("/"):
        target = f"/{target}"
    if query := str(document.get("rawQueryString") or ""):
        target += "?" + quote(query, safe="%/:@!$&'()*+,;=~-._?")
    return Request(method, _head(method, target, headers, len(body)), body, True)


def _http(document: Any) -> dict[str, Any] | None:
    """What a 2.0 event says of its request; None for any other event."""
    if not isinstance(document, dict) or document.get("version") != "2.0":
        return None
    context = document.get("requestContext")
    http = context.get("http") if isinstance(context, dict) else None
    return http if isinstance(http, dict) else None


def _body(document: dict[str, Any]) -> bytes:
    body = document.get("body") or ""
    if not isinstance(body, str):
        raise ValueError("body must be a string")
    if not document.get("isBase64Encoded"):
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError("body is no base64") from exc


def _head(method: str, target: str, headers: list[tuple[str, str]], size: int) -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers:
        if name and _TOKEN.issuperset(name) and not any(c in value for c in "\r\n\0"):
            lines.append(f"{name}: {value}")
    if size or method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        lines.append(f"content-length: {size}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def result(asked: Request, response: Response) -> tuple[bool, bytes]:
    """(ok, the result as JSON, or an error's)."""
    kind = next((value.decode("latin-1") for name, value in response.headers if name == b"content-type"), "")
    text = _text(response.body, kind)
    if not asked.http:
        return _plain(response.status, kind, text, response.body)
    body, binary = (text, False) if text is not None else (base64.b64encode(response.body).decode(), True)
    several: dict[str, list[str]] = {}
    for name, value in response.headers:
        several.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    cookies = several.pop("set-cookie", [])
    document: dict[str, Any] = {"statusCode": response.status, "multiValueHeaders": several, "cookies": cookies}
    if not kind:
        several["content-type"] = ["application/octet-stream"]
    document |= {"body": body, "isBase64Encoded": binary}
    return True, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _text(body: bytes, kind: str) -> str | None:
    """The body as text, where it is some."""
    if not httpevent.is_text(kind):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _plain(status: int, kind: str, text: str | None, body: bytes) -> tuple[bool, bytes]:
    if status >= 400:
        said = (text if text is not None else f"{len(body)} bytes")[:_ERROR_BODY_CHARS].strip()
        return False, error_json("Function.HttpError", f"the server answered with status {status}: {said}")
    if "json" in kind and text is not None:
        try:
            json.loads(text)
            return True, body
        except (ValueError, RecursionError):
            pass  # it claims to be JSON, and is not
    said = text if text is not None else base64.b64encode(body).decode()
    return True, json.dumps(said, ensure_ascii=False).encode() if said else b"null"
