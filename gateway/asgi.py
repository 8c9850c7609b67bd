"""Raw ASGI: read a body within bounds, write an answer or an error. What the hot path uses in Starlette's stead."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.admission import Admission, Head, check_size
from jiffy.contract.errors import InvalidRequest, JiffyError, MethodNotAllowed, Unauthorized

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]
Response = tuple[int, list[Header], bytes]  # status, headers, body
Respond = Callable[[Response], None]

BODY_MAX_S = 60.0  # 6 MB in a minute is a slow phone; slower ones would hold places that others could use
TAKE_MAX_S = 60.0  # to take some 64 KB of a streamed answer
TRANSPORT = "jiffy.transport"  # in a scope's extensions: protocol.py puts it there
JSON = (b"content-type", b"application/json")
_BODILESS = frozenset({204, 205, 304})


class ClientGone(Exception):
    """The client hung up before its request was complete: nobody is left to answer."""


async def read_body(receive: Receive, head: Head, most: int, admission: Admission) -> bytes:
    """The request's body, counted while it comes in. What is read is held at `admission`: release its length.

    Raises PayloadTooLarge, Unavailable, InvalidRequest (too slow), ClientGone, and then holds nothing.
    """
    if not head.body:
        return b""
    check_size(head.length or 0, most)
    try:
        async with asyncio.timeout(BODY_MAX_S):
            return await _gather(receive, most, admission)
    except TimeoutError as exc:
        raise InvalidRequest(f"the body was not here after {BODY_MAX_S:g} s") from exc


async def _gather(receive: Receive, most: int, admission: Admission) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            check_size(size + len(chunk), most)
            admission.hold(len(chunk))
            size += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)
    except BaseException:
        admission.held -= size
        raise


def take_whole(admission: Admission, size: int, respond: Respond, begin: Callable[[Respond], None]) -> None:
    """`begin` work on a request whose `size` bytes are here already, which counts until it has responded.

    What `begin` is given passes on to `respond`, which is called once, maybe at once: here when there is no room.
    """
    try:
        admission.hold(size)
        admission.enter(size)
    except JiffyError as exc:
        respond(error_response(exc))
        return
    inside = True

    def leave() -> None:
        nonlocal inside
        if inside:
            inside = False
            admission.leave(size)

    def answered(response: Response) -> None:
        leave()
        respond(response)

    try:
        begin(answered)
    except BaseException:
        leave()
        raise


async def reply(scope: Scope, send: Send, response: Response) -> None:
    """Write a whole answer; its list of headers is taken over."""
    status, headers, body = framed(response)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def start(send: Send, response: Response) -> None:
    """Write the head of an answer whose body follows piece by piece (`more`)."""
    status, headers, _ = response
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def more(send: Send, piece: bytes, last: bool = False) -> None:
    """Raises TimeoutError when the client took hardly anything for long."""
    async with asyncio.timeout(TAKE_MAX_S):
        await send({"type": "http.response.body", "body": piece, "more_body": not last})


async def cut(scope: Scope, hung_up: asyncio.Future[None], *, at_once: bool = False) -> None:
    """End the connection amid an answer, so that the client can't take it for whole: it gets what was written, or
    `at_once` not even that. Returns when the server has noticed (`hung_up`).
    """
    transport = scope["extensions"][TRANSPORT]
    if not at_once:
        transport.close()
        await asyncio.wait((hung_up,), timeout=TAKE_MAX_S)
    transport.abort()
    await asyncio.wait((hung_up,))


def framed(response: Response) -> Response:
    """With its Content-Length, which is ours to say."""
    status, headers, body = response
    if status in _BODILESS:
        return status, headers, b""
    headers.append((b"content-length", b"%d" % len(body)))
    return response


def error_headers(error: JiffyError) -> list[Header]:
    """What an error says beside its body: Retry-After, Allow, WWW-Authenticate."""
    headers = [JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, MethodNotAllowed) and error.allow:
        headers.append((b"allow", ", ".join(error.allow).encode("latin-1")))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def error_body(error: JiffyError) -> bytes:
    return json.dumps(error.to_dict()).encode()


def error_response(error: JiffyError) -> Response:
    """A request that was turned away."""
    return error.status, error_headers(error), error_body(error)


async def reply_error(scope: Scope, send: Send, error: JiffyError) -> None:
    """Write an error as JSON."""
    await reply(scope, send, error_response(error))
