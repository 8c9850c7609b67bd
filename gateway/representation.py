"""How an answer travels: not at all where the client has it already (ETag, 304), or packed (gzip).

Source of the contract: RFC 9110, §8.4 (content codings), §8.8.3 (ETag), §12.5.3 (Accept-Encoding), §13.1.2
(If-None-Match). Which routes do so: jiffy.contract.edges.Edge.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from hashlib import sha256

from gateway.asgi import Header, Response, Scope
from gateway.cors import find
from jiffy.contract import httpevent
from jiffy.contract.edges import Edge

PACKED_MIN_BYTES = 1024  # below, a packet more or less is all that could be won
THREAD_MIN_BYTES = 64 * 1024  # about a millisecond of packing: longer would hold up other callers
LEVEL = 6
_TAG = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_PACKABLE = ("image/svg+xml", "application/wasm", "application/manifest+json", "application/x-ndjson")


async def represent(edge: Edge, scope: Scope, response: Response) -> Response:
    """The answer as this client gets it."""
    if edge.etag:
        response = tagged(scope, response)
    if edge.compress and response[0] != 304:
        response = await packed(scope, response)
    return response


def tagged(scope: Scope, response: Response) -> Response:
    """With an ETag, unless the function gave one; 304 for who has that already."""
    status, headers, body = response
    method = scope["method"]
    if status != 200 or method not in ("GET", "HEAD"):
        return response
    tag = find(headers, b"etag")
    if not tag and method == "GET":  # what a function returns for HEAD need not be what it would for GET
        tag = b'W/"%b"' % sha256(body).hexdigest()[:32].encode()
        headers.append((b"etag", tag))
    if tag and _has(find(scope["headers"], b"if-none-match"), tag):
        return 304, [one for one in headers if not one[0].startswith(b"content-")], b""
    return response


async def packed(scope: Scope, response: Response) -> Response:
    """As gzip, where it is text and the client takes it."""
    status, headers, body = response
    if not _packable(status, headers):
        return response
    headers.append((b"vary", b"accept-encoding"))
    if len(body) < PACKED_MIN_BYTES or not takes_gzip(find(scope["headers"], b"accept-encoding")):
        return response
    body = await asyncio.to_thread(_gzip, body) if len(body) >= THREAD_MIN_BYTES else _gzip(body)
    headers = [(name, _weak(value) if name == b"etag" else value) for name, value in headers]
    return status, [*headers, (b"content-encoding", b"gzip")], body


def takes_gzip(accepted: bytes) -> bool:
    """Is gzip among what an Accept-Encoding takes?"""
    weights: dict[bytes, float] = {}
    for part in accepted.lower().split(b",")[:32]:
        name, _, weight = part.partition(b";")
        try:
            weights[name.strip()] = float(weight.strip().removeprefix(b"q=")) if weight else 1.0
        except ValueError:
            continue  # what can't be read is not taken
    return weights.get(b"gzip", weights.get(b"x-gzip", weights.get(b"*", 0.0))) > 0


def _packable(status: int, headers: list[Header]) -> bool:
    if status in (204, 205, 206, 304) or find(headers, b"content-encoding") or find(headers, b"content-range"):
        return False
    if b"no-transform" in find(headers, b"cache-control").lower():
        return False
    kind = find(headers, b"content-type").decode("latin-1")
    return httpevent.is_text(kind) or kind.partition(";")[0].strip().lower() in _PACKABLE


def _gzip(body: bytes) -> bytes:
    packing = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packing.compress(body) + packing.flush()


def _weak(tag: bytes) -> bytes:
    """Packed, it is another representation: the same to read, not byte for byte."""
    return tag if tag.startswith(b"W/") else b"W/" + tag


def _has(known: bytes, tag: bytes) -> bool:
    match = _TAG.fullmatch(tag)
    return known.strip() == b"*" or (match is not None and match[1] in _TAG.findall(known))
