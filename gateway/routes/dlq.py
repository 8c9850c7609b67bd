"""/v1/dlq: the dead-letter queue, asynchronous calls that failed for good. What it can do: durable/dead_letters.py."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.admission import known_name
from gateway.durable.dead_letters import DeadLetters
from gateway.durable.deliveries import event
from gateway.openapi import Endpoint
from gateway.routes import caller
from jiffy.contract.access import Role
from jiffy.contract.errors import InvalidRequest
from jiffy.contract.messages import Call, DeadLetter

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000


class Secrets(Protocol):
    """Where signing secrets are. Raises Unavailable."""

    async def secret(self, tenant: str) -> str: ...


class Dlq:
    def __init__(self, letters: DeadLetters, secrets: Secrets) -> None:
        self._letters = letters
        self._secrets = secrets

    def endpoints(self) -> tuple[Endpoint, ...]:
        one = "/v1/dlq/{invocation}"
        which = {"function": "only this function's; all without it"}
        page = {"limit": "letters of a page", "after": "`next` of the page before"}
        return (
            Endpoint(
                *("GET", "/v1/callback-secret", self.secret, "What callbacks are signed with (Standard Webhooks)."),
                errors=("503",),
                role=Role.DEPLOY,
            ),
            Endpoint(
                *("GET", "/v1/dlq", self.all, "Dead letters: asynchronous calls that failed for good, newest first."),
                query=which | page,
                errors=("400", "503"),
            ),
            Endpoint(
                "POST", "/v1/dlq/replay", self.replay_all, "Try them all again.", query=which, errors=("404", "503")
            ),
            Endpoint("DELETE", "/v1/dlq", self.purge_all, "Throw them all away.", query=which, errors=("404", "503")),
            Endpoint("GET", one, self.show, "One dead letter, with its payload.", errors=("404", "503")),
            Endpoint("POST", one + "/replay", self.replay, "Try it again.", errors=("404", "503")),
            Endpoint("DELETE", one, self.purge, "Throw it away.", status="204", answer="", errors=("404", "503")),
        )

    async def secret(self, request: Request) -> Response:
        return JSONResponse({"secret": await self._secrets.secret(caller.tenant(request))})

    async def all(self, request: Request) -> Response:
        query = request.query_params
        limit = query.get("limit", str(LIMIT_DEFAULT))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= LIMIT_MAX):
            raise InvalidRequest(f"limit = {limit[:40]!r}; allowed: a whole number from 1 to {LIMIT_MAX}")
        try:
            page = await self._letters.page(caller.tenant(request), _function(request), query.get("after"), int(limit))
        except ValueError as exc:
            raise InvalidRequest("after must be what the page before said as `next`") from exc
        return JSONResponse({"letters": [_document(letter) for letter in page.letters], "next": page.next})

    async def show(self, request: Request) -> Response:
        letter, call = await self._letters.find(caller.tenant(request), request.path_params["invocation"][:80])
        payload = call.payload if isinstance(call, Call) else await asyncio.to_thread(event, call)
        return JSONResponse(_document(letter) | {"error": _json(letter.error), "payload": _json(payload)})

    async def replay(self, request: Request) -> Response:
        await self._letters.replay(caller.tenant(request), request.path_params["invocation"][:80])
        return JSONResponse({"replayed": 1})

    async def replay_all(self, request: Request) -> Response:
        return JSONResponse({"replayed": await self._letters.replay_all(caller.tenant(request), _function(request))})

    async def purge(self, request: Request) -> Response:
        await self._letters.purge(caller.tenant(request), request.path_params["invocation"][:80])
        return Response(status_code=204)

    async def purge_all(self, request: Request) -> Response:
        return JSONResponse({"purged": await self._letters.purge_all(caller.tenant(request), _function(request))})


def _function(request: Request) -> str | None:
    name = request.query_params.get("function")
    return None if name is None else known_name(name)


def _document(letter: DeadLetter) -> dict[str, Any]:
    return {
        "invocation": letter.invocation,
        "function": letter.function,
        "revision": letter.revision,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "outcome": letter.outcome,
        "error_message": _message(letter.error),
        "trigger": letter.trigger,
        "accepted_ms": letter.accepted_ms,
        "dead_ms": letter.dead_ms,
        "payload_bytes": letter.payload_bytes,
    } | ({"target": letter.target} if letter.target else {})


def _message(error: bytes) -> str:
    document = _json(error)
    return str(document.get("errorMessage", "")) if isinstance(document, dict) else ""


def _json(data: bytes) -> Any:
    try:
        return json.loads(data) if data else None
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")
