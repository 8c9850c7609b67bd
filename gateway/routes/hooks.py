"""/v1/hooks/{function}/{trigger}: deliveries from GitHub, Stripe, Slack and others, verified before a function runs.

They need no API key: the signature is the key. A delivery is an asynchronous call; the same one again, within a day, is
told the first one's invocation and runs nothing. How signatures are verified: jiffy.contract.webhooks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from uuid_utils import uuid7

from gateway.admission import Admission, known_name
from gateway.asgi import BODY_MAX_S
from gateway.catalog import Catalog, Function
from gateway.durable.acceptance import Acceptance
from gateway.durable.store import Claim
from gateway.openapi import Endpoint
from gateway.routes import bodies, caller
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.store import TriggerStore
from gateway.triggers.trigger import Trigger, declared
from jiffy.contract import httpevent, keys, limits, webhooks
from jiffy.contract.errors import InvalidRequest, NotFound, Unauthorized

PREFIX = "/v1/hooks/"


class Hooks:
    def __init__(
        self,
        catalog: Catalog,
        admission: Admission,
        acceptance: Acceptance,
        store: TriggerStore,
        metrics: TriggerMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._admission = admission
        self._acceptance = acceptance
        self._store = store
        self._metrics = metrics
        self._now_ms = now_ms

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", PREFIX + "{function}/{trigger}", self.take, "A signed delivery for a webhook trigger."),
                body="*/*",
                status="202",
                errors=("400", "401", "404", "413", "429", "503"),
                open=True,
            ),
        )

    async def take(self, request: Request) -> Response:
        name, wanted = known_name(request.path_params["function"]), request.path_params["trigger"]
        function = self._catalog.get(caller.tenant(request), name)
        found = {one.id.name: one for one in declared(function) if one.type == "webhook"}
        if function is None or wanted not in found:
            raise NotFound("there is no such webhook")  # to strangers, no more than that
        trigger = found[wanted]
        (state,) = await self._store.states([trigger.id])
        if state.paused:
            raise NotFound("there is no such webhook")
        with self._refusing(trigger):
            webhooks.hopeless(
                *(trigger.options["scheme"], request.headers, self._now_ms() // 1000, trigger.options["header"])
            )
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            self._admission.hold(size)
            held += size

        self._admission.enter()
        try:
            async with asyncio.timeout(BODY_MAX_S):
                body = await bodies.read(request, limits.PAYLOAD_MAX_BYTES, hold)
            return await self._deliver(function, trigger, request, body)
        except TimeoutError as exc:
            raise InvalidRequest(f"the body was not here after {BODY_MAX_S:g} s") from exc
        finally:
            self._admission.leave(held)

    async def _deliver(self, function: Function, trigger: Trigger, request: Request, body: bytes) -> Response:
        """Verify a delivery, and queue its call unless it came before."""
        options, now_ms = trigger.options, self._now_ms()
        secret = function.revision.env.get(options["secret_env"], "")
        delivery = webhooks.Delivery(request.headers, body, now_ms // 1000)
        with self._refusing(trigger):
            identity = webhooks.verify(options["scheme"], secret, delivery, options["header"])
        if (challenge := _challenge(options["scheme"], body)) is not None:
            return PlainTextResponse(challenge)
        invocation = str(uuid7())
        once = keys.once(function.tenant, function.name, f"hook-{trigger.id.name}-{identity}")
        took = await self._acceptance.accept(
            function,
            _event(request, body, invocation, now_ms),
            trigger=trigger.label,
            invocation=invocation,
            claim=Claim(once, sha256(body).hexdigest()),
        )
        if took == invocation:
            self._metrics.count(trigger.id, "fired")
            await self._store.called(trigger.id, "fired", invocation, "a delivery", now_ms)
        headers = {"location": f"/v1/invocations/{took}"}
        return JSONResponse({"invocation": took, "repeated": took != invocation}, 202, headers=headers)

    @contextmanager
    def _refusing(self, trigger: Trigger) -> Iterator[None]:
        """What is wrong with a delivery is counted, and told."""
        try:
            yield
        except ValueError as exc:
            self._metrics.count(trigger.id, "refused")
            raise Unauthorized(f"this delivery is refused: {exc}") from exc


def _challenge(scheme: str, body: bytes) -> str | None:
    """What Slack wants to hear back when an address is entered."""
    if scheme != "slack" or b"url_verification" not in body:
        return None
    try:
        document = json.loads(body)
        if document["type"] != "url_verification":
            return None
        return str(document["challenge"]).encode().decode()
    except UnicodeEncodeError as exc:
        raise InvalidRequest("the challenge is no text") from exc
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _event(request: Request, body: bytes, invocation: str, now_ms: int) -> bytes:
    """The request as an HTTP event, its body as it came."""
    try:
        return httpevent.event(
            method="POST",
            path=request.url.path,
            raw_query=request.url.query,
            headers=list(request.headers.items()),
            body=body,
            source_ip=request.client.host if request.client else "",
            request_id=invocation,
            now_ms=now_ms,
        )
    except ValueError as exc:
        raise InvalidRequest(f"the request can't be made an event: {exc}") from exc
