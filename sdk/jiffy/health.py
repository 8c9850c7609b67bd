"""What the supervisor asks its own gateway while it starts: one small HTTP request, without a client library."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .listener import reachable

ASK_S = 5.0
Answer = tuple[int, Any]  # HTTP status (0: no gateway answers yet), the JSON document


async def ask(address: tuple[Any, ...], path: str, api_key: str | None) -> Answer:
    """GET `path`. Never raises: a gateway that is not there yet is status 0."""
    try:
        return await asyncio.wait_for(_get(*reachable(address), path, api_key), ASK_S)
    except (OSError, ValueError, IndexError, TimeoutError, asyncio.IncompleteReadError) as exc:
        return 0, str(exc)


async def _get(host: str, port: int, path: str, api_key: str | None) -> Answer:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
        if b"chunked" in head.lower():
            body = body[body.find(b"{") : body.rfind(b"}") + 1]
        return int(head.split(b" ", 2)[1]), json.loads(body)
    finally:
        writer.close()


def reason(status: int, document: Any) -> str:
    """Why /healthz is not 200, in one line."""
    try:
        return str(document["error"]["message"])
    except (TypeError, KeyError):
        return "no gateway answers" if status == 0 else f"/healthz answers {status}"


def sandbox(answer: Answer) -> str:
    """Which sandboxes the invokers of /v1/status make."""
    try:
        return ", ".join(sorted({str(invoker["driver"]) for invoker in answer[1]["invokers"]}))
    except (TypeError, KeyError):
        return "unknown"
