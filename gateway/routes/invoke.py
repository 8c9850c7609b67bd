"""The calls themselves, on raw ASGI: a request becomes a Call, its Answer becomes a response.

This is the hot path: no middleware, no request object, no task of its own. How a call travels: dispatch.py. How an
HTTP request becomes an event and back: jiffy.contract.httpevent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

from uuid_utils import uuid7

from gateway.admission import Admission, Head, check_size
from gateway.asgi import JSON, Header, Receive, Scope, Send, error_body, error_headers, read_body, reply
from gateway.catalog import Catalog, Function
from gateway.dispatch import Dispatcher
from gateway.metrics import Metrics
from gateway.openapi import Endpoint
from gateway.placement import Placement
from jiffy.contract import httpevent, limits
from jiffy.contract.errors import InvalidRequest, JiffyError, PlatformError, Throttled
from jiffy.contract.messages import Answer, Call, InvocationRecord, Outcome

CHECKED_MAX_BYTES = 256 * 1024  # a larger event is left for the agent to parse: here it would hold up other callers
SYNC_WAIT_MS = int(limits.WAIT_MAX_S * 1000)
ASYNC_WAIT_MS = int(limits.ASYNC_WAIT_MAX_S * 1000)

ENDPOINTS = (
    Endpoint(
        *("ANY", "/function/{name}", None, "Call a function over HTTP; the answer is the function's own."),
        body="*/*",
        answer="*/*",
        errors=("404", "413", "429", "502", "503", "504"),
    ),
    Endpoint(
        *("ANY", "/function/{name}/{rest:path}", None, "The same, with a path for the function to read."),
        body="*/*",
        answer="*/*",
        errors=("404", "413", "429", "502", "503", "504"),
    ),
    Endpoint(
        *("POST", "/v1/functions/{name}/invocations", None, "Call a function with any JSON event; answers its result."),
        query={
            "mode": "sync (the default), or async: 202 with an id, to be asked for at /v1/invocations/{id}",
            "revision": "number of a revision other than the live one",
        },
        body="application/json",
        errors=("400", "404", "413", "429", "502", "503", "504"),
    ),
)


class Invoke:
    """Takes calls in and answers them."""

    def __init__(
        self,
        catalog: Catalog,
        placement: Placement,
        dispatcher: Dispatcher,
        admission: Admission,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._placement = placement
        self._dispatcher = dispatcher
        self._admission = admission
        self._metrics = metrics
        self._now_ms = now_ms

    async def http(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        head: Head,
        function: Function,
        path: str,
        route_key: str = "$default",
        parameters: dict[str, str] | None = None,
    ) -> None:
        """An HTTP request to a function's own URL or to a route that it declares."""
        admission = self._admission
        admission.enter()
        held, head_only = 0, scope["method"] == "HEAD"
        try:
            body = await read_body(receive, head, limits.PAYLOAD_MAX_BYTES, admission)
            held = len(body)
            invocation, now_ms = str(uuid7()), self._now_ms()
            trigger = "http" if route_key == "$default" else f"route {route_key}"
            try:
                event = _event(scope, head, body, invocation, path, route_key, parameters, now_ms)
                answer = await self._call(function, invocation, trigger, event, now_ms)
                status, headers, content = _http_answer(answer, function)
            except JiffyError as exc:
                status, headers, content = _refusal(exc, invocation, function)
            await reply(scope, send, status, headers, content, head_only)
        finally:
            admission.leave(held)

    async def invocation(self, scope: Scope, receive: Receive, send: Send, head: Head, tenant: str, name: str) -> None:
        """POST /v1/functions/{name}/invocations: any JSON event."""
        admission = self._admission
        admission.enter()
        held = 0
        try:
            mode, number = _query(scope["query_string"])
            catalog = self._catalog
            function = await (catalog.pinned(tenant, name, number) if number else catalog.find(tenant, name))
            payload = await read_body(receive, head, limits.PAYLOAD_MAX_BYTES, admission)
            held = len(payload)
            payload = _json_event(payload)
            invocation, now_ms = str(uuid7()), self._now_ms()
            try:
                if mode == "async":
                    status, headers, content = await self._queue(function, invocation, payload, now_ms)
                else:
                    answer = await self._call(function, invocation, "invoke", payload, now_ms)
                    status, headers, content = _raw_answer(answer, function)
            except JiffyError as exc:
                status, headers, content = _refusal(exc, invocation, function)
            await reply(scope, send, status, headers, content)
        finally:
            admission.leave(held)

    async def _call(self, function: Function, invocation: str, trigger: str, event: bytes, now_ms: int) -> Answer:
        revision, placement = function.revision, self._placement
        invoker = placement.place(function.tenant, function.name, revision.network)
        wait_ms = SYNC_WAIT_MS + revision.timeout_ms
        call = Call(
            *(invocation, 1, "sync", self._dispatcher.gateway, now_ms, now_ms + wait_ms),
            *(trigger, function.packed, event),
        )
        placement.begun(invoker)
        try:
            answer = await self._dispatcher.submit(invoker, call, wait_ms / 1000)
        except JiffyError as exc:
            self._metrics.count(function.name, exc.code)
            raise
        finally:
            placement.ended(invoker)
        self._metrics.observe(function.name, answer.outcome, answer.duration_us, answer.cold)
        return answer

    async def _queue(
        self, function: Function, invocation: str, event: bytes, now_ms: int
    ) -> tuple[int, list[Header], bytes]:
        revision = function.revision
        invoker = self._placement.place(function.tenant, function.name, revision.network)
        deadline_ms = now_ms + ASYNC_WAIT_MS + revision.timeout_ms
        call = Call(invocation, 1, "async", "", now_ms, deadline_ms, "invoke", function.packed, event)
        record = InvocationRecord(
            invocation, function.tenant, function.name, revision.number, "queued", now_ms, 0, None
        )
        await asyncio.shield(self._dispatcher.enqueue(invoker, call, record))
        self._metrics.count(function.name, "queued")
        text = invocation.encode()
        headers = [
            JSON,
            (b"location", b"/v1/invocations/" + text),
            (b"jiffy-invocation-id", text),
            (b"jiffy-revision", function.number),
        ]
        return 202, headers, b'{"invocation":"%b"}' % text


# --- in -----------------------------------------------------------------------------------------------------


def _event(
    scope: Scope,
    head: Head,
    body: bytes,
    invocation: str,
    path: str,
    route_key: str,
    parameters: dict[str, str] | None,
    now_ms: int,
) -> bytes:
    client = scope.get("client")
    try:
        event = httpevent.event(
            method=scope["method"],
            path=path,
            raw_query=scope["query_string"].decode("latin-1"),
            headers=head.pairs,
            body=body,
            source_ip=client[0] if client else "",
            request_id=invocation,
            route_key=route_key,
            path_parameters={k: unquote(v) for k, v in parameters.items()} if parameters else None,
            protocol="HTTP/" + scope["http_version"],
            now_ms=now_ms,
        )
    except ValueError as exc:
        raise InvalidRequest(f"the request can't be made an event: {exc}") from exc
    check_size(len(event), what="the event made of the request")
    return event


def _query(raw: bytes) -> tuple[str, int]:
    """(mode, revision or 0)"""
    if not raw:
        return "sync", 0
    try:
        query = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=10))
    except ValueError as exc:
        raise InvalidRequest("too many query parameters") from exc
    mode, number = query.get("mode", "sync"), query.get("revision", "")
    if mode not in ("sync", "async"):
        raise InvalidRequest(f"mode = {mode[:40]!r}; allowed: sync, async")
    if number and not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
        raise InvalidRequest(f"revision = {number[:40]!r}; allowed: a whole number from 1")
    return mode, int(number or 0)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _json_event(payload: bytes) -> bytes:
    if not payload or payload.isspace():
        return b"{}"
    try:
        if len(payload) <= CHECKED_MAX_BYTES:
            _DECODER.decode(payload.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the event must be JSON: {exc}") from exc
    return payload


# --- out ----------------------------------------------------------------------------------------------------


def _headers(answer: Answer, function: Function) -> list[Header]:
    headers = [
        (b"jiffy-invocation-id", answer.invocation.encode()),
        (b"jiffy-duration-ms", b"%d.%03d" % divmod(answer.duration_us, 1000)),
        (b"jiffy-billed-ms", b"%d" % answer.billed_ms),
        (b"jiffy-cold", b"true" if answer.cold else b"false"),
        (b"jiffy-outcome", answer.outcome.encode("latin-1", "replace")),
        (b"jiffy-revision", function.number),
    ]
    if answer.cold:
        headers.append((b"jiffy-init-ms", b"%d.%03d" % divmod(answer.init_us, 1000)))
    return headers


def _http_answer(answer: Answer, function: Function) -> tuple[int, list[Header], bytes]:
    """What a browser sees: the function's response, or its failure as 502, 504 …"""
    headers = _headers(answer, function)
    if answer.outcome != "ok":
        return _failure(answer, headers, None)
    try:
        status, own, body = httpevent.response(answer.payload)
    except (ValueError, RecursionError) as exc:
        headers.append(JSON)
        error = {"errorType": "Jiffy.BadResponse", "errorMessage": f"the function's result is no HTTP response: {exc}"}
        return 502, headers, json.dumps(error).encode()
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own]
    return status, headers, body


def _raw_answer(answer: Answer, function: Function) -> tuple[int, list[Header], bytes]:
    """What `jiffy invoke` sees: the result, or as with Lambda a 200 with the error and a header that says so."""
    headers = _headers(answer, function)
    if answer.outcome != "ok":
        headers.append((b"jiffy-function-error", b"Unhandled"))
        return _failure(answer, headers, 200)
    headers.append(JSON)
    return 200, headers, answer.payload


def _failure(answer: Answer, headers: list[Header], status: int | None) -> tuple[int, list[Header], bytes]:
    try:
        outcome = Outcome(answer.outcome)
    except ValueError:  # an outcome of a newer release
        outcome = Outcome.PLATFORM
    if outcome in (Outcome.THROTTLED, Outcome.PLATFORM):
        headers = [h for h in headers if h[0] != b"jiffy-function-error"]  # it is none
        error = _platform_error(outcome, answer)
        return error.status, [*headers, *error_headers(error)], error_body(error)
    headers.append(JSON)
    return status or outcome.status, headers, answer.payload


def _platform_error(outcome: Outcome, answer: Answer) -> JiffyError:
    try:
        message = str(json.loads(answer.payload)["errorMessage"])
    except (ValueError, TypeError, KeyError, RecursionError):
        message = f"the call ended as {outcome}"
    if outcome is Outcome.THROTTLED:
        return Throttled(message, retry_after_s=max(1.0, answer.retry_after_s))
    return PlatformError(message)


def _refusal(error: JiffyError, invocation: str, function: Function) -> tuple[int, list[Header], bytes]:
    """A call that has an id but got no answer."""
    known = [(b"jiffy-invocation-id", invocation.encode()), (b"jiffy-revision", function.number)]
    return error.status, [*known, *error_headers(error)], error_body(error)
