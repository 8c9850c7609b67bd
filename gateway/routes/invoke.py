"""Synchronous calls: a request becomes a Call, its Answer becomes a response. Calls with a JSON event: direct.py.

This is the hot path: no middleware, no request object. A request that is here whole has no task of its own either
(`whole`, called from protocol.py); one whose body is still to come is awaited on raw ASGI (`http`). How a call travels:
dispatch.py. How a request becomes an event: jiffy.contract.httpevent; an Answer a response: gateway/answer.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from uuid_utils import uuid7

from gateway.admission import Admission, Head, check_size
from gateway.answer import Complain, http_answer, refusal
from gateway.asgi import Receive, Respond, Response, Scope, Send, read_body, reply, take_whole
from gateway.budgets.guard import Guard
from gateway.budgets.plan import Plan
from gateway.catalog import Function
from gateway.dispatch import Dispatcher, Done
from gateway.durable import once
from gateway.durable.once import Once, Request
from gateway.durable.store import Claim
from gateway.metrics import Metrics
from gateway.openapi import Endpoint
from gateway.placement import Placement
from gateway.routes.streamed import Finish, Streamed, StreamedCall, takes_pieces
from jiffy.contract import httpevent, limits
from jiffy.contract.edges import Edge
from jiffy.contract.errors import InvalidRequest, JiffyError
from jiffy.contract.messages import Answer, Call

_USER = ("authorization", "cookie")  # what tells a function's users apart
SYNC_WAIT_MS = int(limits.WAIT_MAX_S * 1000)

ENDPOINTS = (
    Endpoint(
        *("ANY", "/function/{name}", None, "Call a function over HTTP; the answer is the function's own."),
        body="*/*",
        answer="*/*",
        errors=("402", "404", "413", "422", "429", "502", "503", "504"),
    ),
    Endpoint(
        *("ANY", "/function/{name}/{rest:path}", None, "The same, with a path for the function to read."),
        body="*/*",
        answer="*/*",
        errors=("402", "404", "413", "422", "429", "502", "503", "504"),
    ),
)


class Target(NamedTuple):
    """What an HTTP request calls."""

    function: Function
    path: str  # as the function sees it, percent-decoded
    route_key: str = "$default"
    parameters: dict[str, str] | None = None
    edge: Edge | None = None

    @property
    def trigger(self) -> str:
        return "http" if self.route_key == "$default" else f"route {self.route_key}"


class Invoke:
    """Takes calls in and answers them."""

    def __init__(
        self,
        placement: Placement,
        dispatcher: Dispatcher,
        admission: Admission,
        metrics: Metrics,
        once: Once,
        complain: Complain,
        streamed: Streamed,
        guard: Guard,
        now_ms: Callable[[], int],
    ) -> None:
        self._placement = placement
        self._dispatcher = dispatcher
        self._admission = admission
        self._metrics = metrics
        self._once = once
        self._complain = complain
        self._streamed = streamed
        self._guard = guard
        self._now_ms = now_ms

    async def http(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        head: Head,
        target: Target,
        most: int = limits.PAYLOAD_MAX_BYTES,
        finish: Finish | None = None,
    ) -> None:
        """An HTTP request to a function's URL or route, its body of at most `most` bytes still to come."""
        admission = self._admission
        body = await read_body(receive, head, most, admission)  # first: who dawdles takes no place among the calls
        admission.enter(len(body))
        try:
            if head.once:
                response = await self._http_once(scope, head, target, body)
            elif target.function.revision.stream and takes_pieces(scope):
                await self._http_streamed(scope, receive, send, head, target, body, finish)
                return
            else:
                answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
                self._begin(scope, head, target, body, partial(settle, answered))
                response = await answered
            await reply(scope, send, await finish.whole(response) if finish else response)
        finally:
            admission.leave(len(body))

    def whole(self, scope: Scope, head: Head, target: Target, body: bytes, respond: Respond) -> None:
        """The same for a request that is here whole: no task, no waiting; `respond` is called once, maybe at once."""
        take_whole(self._admission, len(body), respond, partial(self._begin, scope, head, target, body))

    def _begin(self, scope: Scope, head: Head, target: Target, body: bytes, respond: Respond) -> None:
        function, invocation, now_ms = target.function, str(uuid7()), self._now_ms()
        try:
            event = _event(scope, head, body, invocation, target, now_ms)
            self.submit(
                *(function, invocation, target.trigger, event, now_ms),
                lambda answer: respond(
                    self.warned(http_answer(answer, invocation, function, self._complain), function)
                ),
            )
        except JiffyError as exc:
            respond(refusal(exc, invocation, function))

    def warned(self, response: Response, function: Function) -> Response:
        """The same, with the names of budgets that are close or used up."""
        if self._guard.active and (names := self._guard.warning(function)):
            response[1].append((b"jiffy-budget-warning", names))
        return response

    async def _http_once(self, scope: Scope, head: Head, target: Target, body: bytes) -> Response:
        """A request with an Idempotency-Key."""
        function, invocation, now_ms = target.function, str(uuid7()), self._now_ms()
        try:
            event = _event(scope, head, body, invocation, target, now_ms)
            answer = await self.call_once(
                function, claim(scope, head, function, body), invocation, target.trigger, event
            )
        except JiffyError as exc:
            return refusal(exc, invocation, function)
        response = http_answer(answer, answer.invocation, function, self._complain)
        return replayed(response, answer.invocation != invocation)

    async def _http_streamed(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        head: Head,
        target: Target,
        body: bytes,
        finish: Finish | None,
    ) -> None:
        """A request whose answer is written as it comes."""
        function, invocation, now_ms = target.function, str(uuid7()), self._now_ms()
        try:
            event = _event(scope, head, body, invocation, target, now_ms)
        except JiffyError as exc:
            response = refusal(exc, invocation, function)
            await reply(scope, send, await finish.whole(response) if finish else response)
            return
        submit = partial(self.submit, function, invocation, target.trigger, event, now_ms, stream=True)
        await self._streamed.http(scope, receive, send, StreamedCall(function, invocation, submit, self.warned), finish)

    async def call_once(self, function: Function, claim: Claim, invocation: str, trigger: str, event: bytes) -> Answer:
        wait_ms = SYNC_WAIT_MS + function.revision.timeout_ms
        try:
            answer = await self._once.call(
                Request(function, claim, invocation, trigger, event, self._now_ms(), wait_ms)
            )
        except JiffyError as exc:
            self._metrics.count(function.label, exc.code)
            raise
        if answer.invocation == invocation:
            self._metrics.observe(function.label, answer.outcome, answer.duration_us, answer.cold)
        return answer

    async def call(self, function: Function, invocation: str, trigger: str, event: bytes, now_ms: int) -> Answer:
        """One synchronous call, for HTTP and for triggers. Raises Unavailable and DeadlineExceeded."""
        answered: asyncio.Future[Answer | JiffyError] = asyncio.get_running_loop().create_future()
        self.submit(function, invocation, trigger, event, now_ms, partial(settle, answered))
        answer = await answered
        if isinstance(answer, JiffyError):
            raise answer
        return answer

    def submit(
        self,
        function: Function,
        invocation: str,
        trigger: str,
        event: bytes,
        now_ms: int,
        done: Done,
        stream: bool = False,
    ) -> None:
        """Send a call whose caller waits, and with `stream` takes pieces of the answer before (streams.py).

        Raises Unavailable when there is nobody to run it.
        """
        revision, placement = function.revision, self._placement
        invoker = placement.place(function.tenant, function.name, revision.network, revision.store)
        wait_ms = SYNC_WAIT_MS + revision.timeout_ms
        call = Call(
            *(invocation, 1, "sync", self._dispatcher.gateway, now_ms, now_ms + wait_ms),
            *(trigger, function.packed, event, None, placement.tariff),
            stream=stream,
        )

        def ended(answer: Answer | JiffyError) -> None:
            placement.ended(invoker)
            if isinstance(answer, JiffyError):
                self._metrics.count(function.label, answer.code)
            else:
                self._metrics.observe(function.label, answer.outcome, answer.duration_us, answer.cold)
            done(answer)

        placement.begun(invoker)
        if self._guard.active and (plan := self._guard.plan(revision)) is not None:
            self._submit_held(plan, invoker, call, wait_ms / 1000, ended)
        else:
            self._dispatcher.submit(invoker, call, wait_ms / 1000, ended)

    def _submit_held(self, plan: Plan, invoker: str, call: Call, wait_s: float, ended: Done) -> None:
        """Send a call that is under a budget; under a hard one only when there is room for it."""
        hold = self._guard.sync_hold(plan, call.accepted_ms)
        call = call._replace(hold=hold)

        def admitted(error: JiffyError | None) -> None:
            if error is None:
                self._dispatcher.submit(invoker, call, wait_s, ended)
            else:
                ended(error)

        if plan.asks:
            self._guard.reserve(plan, hold, admitted)
        else:
            admitted(None)


def claim(scope: Scope, head: Head, function: Function, body: bytes) -> Claim:
    """Who asks is part of the request: what a function answers one of its users is no other one's."""
    users = [text for name, value in head.pairs if name in _USER for text in (name, value)]
    return once.claim(function, head.once, scope["method"], scope["raw_path"], scope["query_string"], body, *users)


def replayed(response: Response, before: bool) -> Response:
    """The same; when it answers an earlier call with this Idempotency-Key it is marked, and sets no cookie."""
    if not before:
        return response
    status, headers, body = response
    kept = [pair for pair in headers if pair[0].lower() != b"set-cookie"]
    return status, [*kept, (b"idempotent-replayed", b"true")], body


def settle(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():  # its task may have been cancelled
        future.set_result(value)


def _event(scope: Scope, head: Head, body: bytes, invocation: str, target: Target, now_ms: int) -> bytes:
    client, parameters = scope.get("client"), target.parameters
    try:
        event = httpevent.event(
            method=scope["method"],
            path=target.path,
            raw_query=scope["query_string"].decode("latin-1"),
            headers=head.pairs,
            body=body,
            source_ip=client[0] if client else "",
            request_id=invocation,
            route_key=target.route_key,
            path_parameters={k: unquote(v) for k, v in parameters.items()} if parameters else None,
            protocol="HTTP/" + scope["http_version"],
            scheme=scope["scheme"],
            now_ms=now_ms,
        )
    except ValueError as exc:
        raise InvalidRequest(f"the request can't be made an event: {exc}") from exc
    check_size(len(event), what="the event made of the request")
    return event
