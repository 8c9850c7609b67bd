"""A control request's body, read whole within a bound."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from gateway.admission import check_size
from jiffy.contract.errors import InvalidRequest


async def read(request: Request, most: int, hold: Callable[[int], None] | None = None) -> bytes:
    """Raises PayloadTooLarge while it comes in, InvalidRequest when it broke off; `hold` is told what came."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            check_size(len(body) + len(chunk), most)
            if hold is not None:
                hold(len(chunk))
            body += chunk
    except ClientDisconnect as exc:
        raise InvalidRequest("the request broke off") from exc
    return bytes(body)


def parse(body: bytes, shape: str) -> Any:
    """The JSON in a body. Raises InvalidRequest, which tells the `shape` that was expected."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the body must be JSON, {shape}: {exc}") from exc
