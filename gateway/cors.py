"""Pages of other sites: what a browser asks before and looks for after a request. Pure.

Source of the contract: the Fetch standard, "CORS protocol". What is declared: jiffy.contract.edges.Cors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from gateway.asgi import Header, Response, Scope, error_response
from jiffy.contract import routes
from jiffy.contract.edges import Cors, Edge
from jiffy.contract.errors import Forbidden

_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,1024}")  # a list of headers that may be repeated to the asker
_ALL = ", ".join(method for method in routes.METHODS if method != "ANY").encode()


class Preflight(NamedTuple):
    """What a browser asks before it sends a page's request."""

    origin: str
    method: str  # of the request
    headers: bytes  # that it would have


def find(headers: Iterable[Header], name: bytes) -> bytes:
    """A request's header, or nothing."""
    return next((value for key, value in headers if key == name), b"")


def asked(scope: Scope) -> Preflight | None:
    """The preflight that this request is, if it is one."""
    if scope["method"] != "OPTIONS":
        return None
    origin, method = find(scope["headers"], b"origin"), find(scope["headers"], b"access-control-request-method")
    if not origin or not method:
        return None
    wanted = find(scope["headers"], b"access-control-request-headers")
    return Preflight(origin.decode("latin-1"), method.decode("latin-1"), wanted)


def answer(edge: Edge, cors: Cors, preflight: Preflight) -> Response:
    """Whether the page may send its request, and for how long the browser may remember that."""
    if not cors.allows(preflight.origin):
        error = Forbidden(f"pages of {preflight.origin[:100]!r} may not call this route (cors.origins)")
        return marked(cors, preflight.origin, error_response(error))
    methods = cors.methods or edge.methods
    headers = [(b"access-control-allow-methods", _ALL if "ANY" in methods else ", ".join(methods).encode())]
    if "*" not in cors.headers:
        headers.append((b"access-control-allow-headers", ", ".join(cors.headers).encode()))
    elif preflight.headers and _NAMES.fullmatch(preflight.headers):
        headers.append((b"access-control-allow-headers", preflight.headers))
    headers.append((b"access-control-max-age", b"%d" % cors.max_age_s))
    status, more, body = marked(cors, preflight.origin, (204, [], b""))
    vary = [b"access-control-request-method", b"access-control-request-headers"]
    vary[:0] = [value for name, value in more if name == b"vary"]  # one header: not every cache reads a second one
    return status, [*(one for one in more if one[0] != b"vary"), *headers, (b"vary", b", ".join(vary))], body


def marked(cors: Cors, origin: str, response: Response) -> Response:
    """An answer with what tells the browser that the page may read it. What a function says of this itself is left out:
    two voices would make browsers refuse the answer.
    """
    status, headers, body = response
    headers = [one for one in headers if not one[0].startswith(b"access-control-")]
    anyone = "*" in cors.origins
    if not anyone:
        headers.append((b"vary", b"origin"))
    if origin and cors.allows(origin):
        headers.append((b"access-control-allow-origin", b"*" if anyone else origin.encode("latin-1")))
        if cors.credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        if cors.expose:
            headers.append((b"access-control-expose-headers", ", ".join(cors.expose).encode()))
    return status, headers, body
