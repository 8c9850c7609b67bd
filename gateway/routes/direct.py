"""POST /v1/functions/{name}/invocations: call a function with any JSON event, and have its result, or an id at once.

A request that is here whole needs no task of its own (`whole`, called from app.py); others are awaited on raw ASGI
(`http`). Synchronous calls go invoke.py's way, asynchronous ones durable/acceptance.py's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from uuid_utils import uuid7

from gateway.admission import Admission, Head
from gateway.answer import raw_answer, refusal
from gateway.asgi import JSON, Receive, Respond, Response, Scope, Send, read_body, reply, take_whole
from gateway.budgets.guard import Guard
from gateway.catalog import Catalog, Function
from gateway.durable.acceptance import Acceptance
from gateway.durable.wishes import NAMES as WISHES
from gateway.durable.wishes import NONE, Wishes
from gateway.durable.wishes import read as read_wishes
from gateway.metrics import Metrics
from gateway.openapi import Endpoint
from gateway.routes.invoke import Invoke, claim, replayed, settle
from gateway.routes.streamed import Streamed, StreamedCall, takes_pieces
from jiffy.contract import limits
from jiffy.contract.errors import InvalidRequest, JiffyError
from jiffy.contract.messages import Answer

CHECKED_MAX_BYTES = 256 * 1024  # a larger event is left for the agent to parse: here it would hold up other callers
MODES = ("sync", "async", "stream")
QUERIES_MAX = 256  # remembered as they were read: callers send the same one again and again

ENDPOINTS = (
    Endpoint(
        *("POST", "/v1/functions/{name}/invocations", None, "Call a function with any JSON event; answers its result."),
        query={
            "mode": "sync (the default); async: 202 with an id, to be asked for at /v1/invocations/{id}; "
            "stream: what a function with stream = true yields, as it comes: lines of JSON (head, text or base64, end)",
            "revision": "number of a revision other than the live one",
            "delay": "async: seconds before the first attempt; or the header Jiffy-Delay",
            "retries": "async: in place of the function's own; or the header Jiffy-Retries",
            "max_age": "async: seconds, in place of the function's max_age_s; or the header Jiffy-Max-Age",
            "order_key": "async: calls with the same one run one at a time, in order; or the header Jiffy-Order-Key",
        },
        body="application/json",
        errors=("400", "402", "404", "413", "422", "429", "502", "503", "504"),
    ),
)


class Asked(NamedTuple):
    """What a request asks for beside the event."""

    queued: bool = False  # mode=async
    streamed: bool = False  # mode=stream
    number: int = 0  # of a revision; 0: the live one
    wishes: Wishes = NONE


class Direct:
    """See the module."""

    def __init__(
        self,
        invoke: Invoke,
        acceptance: Acceptance,
        streamed: Streamed,
        catalog: Catalog,
        admission: Admission,
        metrics: Metrics,
        guard: Guard,
        now_ms: Callable[[], int],
    ) -> None:
        self._invoke = invoke
        self._acceptance = acceptance
        self._streamed = streamed
        self._catalog = catalog
        self._admission = admission
        self._metrics = metrics
        self._guard = guard
        self._now_ms = now_ms

    async def http(self, scope: Scope, receive: Receive, send: Send, head: Head, tenant: str, name: str) -> None:
        """A request whose body is still to come. Raises NotFound, InvalidRequest."""
        admission, catalog = self._admission, self._catalog
        asked = _asked(scope["query_string"], head)
        function = await (
            catalog.pinned(tenant, name, asked.number) if asked.number else catalog.find_any(tenant, name)
        )
        body = await read_body(receive, head, limits.PAYLOAD_MAX_BYTES, admission)
        admission.enter(len(body))
        try:
            if asked.streamed and function.revision.stream and takes_pieces(scope):
                await self._lines(scope, receive, send, function, body)
                return
            if head.once and not asked.queued:
                response = await self._once(scope, head, function, body)
            else:
                answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
                self._begin(scope, head, function, asked, body, partial(settle, answered))
                response = await answered
            await reply(scope, send, response)
        finally:
            admission.leave(len(body))

    def whole(self, scope: Scope, head: Head, function: Function, body: bytes, respond: Respond) -> bool:
        """The same for a request that is here whole, to the live revision: no task, no waiting.

        False when it goes the ordinary way.
        """
        try:
            asked = _asked(scope["query_string"], head)
        except JiffyError:
            return False
        if asked.number or asked.streamed or (head.once and not asked.queued):
            return False
        begin = partial(self._begin, scope, head, function, asked, body)
        take_whole(self._admission, len(body), respond, begin)
        return True

    def _begin(self, scope: Scope, head: Head, function: Function, asked: Asked, body: bytes, respond: Respond) -> None:
        invocation = str(uuid7())

        def refused(error: JiffyError) -> None:
            respond(refusal(error, invocation, function))

        def ended(answer: Answer | JiffyError) -> None:
            if isinstance(answer, JiffyError):
                refused(answer)
            else:
                respond(self._invoke.warned(raw_answer(answer, function), function))

        def accepted(holder: str | JiffyError) -> None:
            if isinstance(holder, JiffyError):
                self._metrics.count(function.label, holder.code)
                refused(holder)
                return
            if not holder:
                self._metrics.count(function.label, "queued")
            response = replayed(_taken(holder or invocation, function), bool(holder))
            respond(self._invoke.warned(response, function))

        try:
            payload = _json_event(body)
            if not asked.queued:
                self._invoke.submit(function, invocation, "invoke", payload, self._now_ms(), ended)
                return
        except JiffyError as exc:
            refused(exc)
            return
        try:
            self._guard.check(function)
            call = self._acceptance.envelope(
                function, payload, trigger="invoke", wishes=asked.wishes, invocation=invocation
            )
        except JiffyError as exc:
            accepted(exc)
            return
        if head.once:
            call = call._replace(claim=claim(scope, head, function, payload))
        self._acceptance.submit(call, accepted)

    async def _lines(self, scope: Scope, receive: Receive, send: Send, function: Function, body: bytes) -> None:
        """A call whose answer is written as it comes."""
        invocation = str(uuid7())
        try:
            payload = _json_event(body)
        except JiffyError as exc:
            await reply(scope, send, refusal(exc, invocation, function))
            return
        submit = partial(self._invoke.submit, function, invocation, "invoke", payload, self._now_ms(), stream=True)
        call = StreamedCall(function, invocation, submit, self._invoke.warned)
        await self._streamed.lines(scope, receive, send, call)

    async def _once(self, scope: Scope, head: Head, function: Function, body: bytes) -> Response:
        """A synchronous call with an Idempotency-Key."""
        invocation = str(uuid7())
        try:
            payload = _json_event(body)
            key = claim(scope, head, function, payload)
            answer = await self._invoke.call_once(function, key, invocation, "invoke", payload)
        except JiffyError as exc:
            return refusal(exc, invocation, function)
        response = replayed(raw_answer(answer, function), answer.invocation != invocation)
        return self._invoke.warned(response, function)


def _taken(invocation: str, function: Function) -> Response:
    """202: an asynchronous call is accepted."""
    text = invocation.encode()
    headers = [
        JSON,
        (b"location", b"/v1/invocations/" + text),
        (b"jiffy-invocation-id", text),
        (b"jiffy-revision", function.number),
    ]
    return 202, headers, b'{"invocation":"%b"}' % text


def _asked(raw: bytes, head: Head) -> Asked:
    """Raises InvalidRequest."""
    if not raw:
        return _NOTHING
    asked, query = _read(raw)
    if asked.streamed and head.once:
        raise InvalidRequest("an Idempotency-Key belongs to mode=sync or async: what is kept for it is a whole answer")
    return asked._replace(wishes=read_wishes(query, head.pairs)) if asked.queued else asked


@lru_cache(QUERIES_MAX)
def _read(raw: bytes) -> tuple[Asked, dict[str, str]]:
    """What a query asks for, and the query itself, not to be changed. Raises InvalidRequest."""
    try:
        query = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=10))
    except ValueError as exc:
        raise InvalidRequest("too many query parameters") from exc
    mode, number = query.get("mode", "sync"), query.get("revision", "")
    if mode not in MODES:
        raise InvalidRequest(f"mode = {mode[:40]!r}; allowed: {', '.join(MODES)}")
    if number and not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
        raise InvalidRequest(f"revision = {number[:40]!r}; allowed: a whole number from 1")
    if mode != "async":
        for name in WISHES:
            if name in query:
                raise InvalidRequest(f"{name} belongs to mode=async")
    return Asked(mode == "async", mode == "stream", int(number or 0)), query


_NOTHING = Asked()


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _json_event(payload: bytes) -> bytes:
    """Raises InvalidRequest."""
    if not payload or payload.isspace():
        return b"{}"
    try:
        if len(payload) <= CHECKED_MAX_BYTES:
            _DECODER.decode(payload.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the event must be JSON: {exc}") from exc
    return payload
