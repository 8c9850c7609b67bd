"""Tells destinations how asynchronous calls ended: `on_success` and `on_failure` of a function. Read first for these.

    completion ──▶ deliveries (with the end itself, in one step) ──▶ lease ──▶ a target by its scheme ──▶ delivered,
                                                                      again later, or a dead letter (retry.py decides)

A lease is a moment; what is written after it has passed to another gateway is refused (scripts/settle.lua). So each
delivery is made at least once; a function is called exactly once for it, because the delivery's id is its idempotency
key, and an HTTP receiver can tell repeats by `webhook-id`. A new kind of destination is one more entry in `targets`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.budgets.warnings import REASON
from gateway.catalog import Catalog
from gateway.durable import once
from gateway.durable.acceptance import Acceptance
from gateway.durable.delivery_store import Leased
from gateway.durable.wishes import Wishes
from jiffy.contract import limits, retry
from jiffy.contract.errors import InvalidRequest, JiffyError, Unavailable
from jiffy.contract.messages import DeadLetter, Delivery, Outcome, State

LOOK_S = 0.1
TROUBLE_S = 0.5
LEASE_MS = 60_000  # a delivery takes at most callbacks.CALL_MAX_S; the rest is for a gateway that is short of time
AT_ONCE = 64  # deliveries under way in one gateway
ERROR_MAX_CHARS = 300  # of why a try failed: a line for people


class Target(Protocol):
    """One kind of destination."""

    async def deliver(self, delivery: Delivery, event: bytes) -> None:
        """Raises InvalidRequest: it will never get through; any other JiffyError: not this time."""


class Leases(Protocol):
    """Where deliveries are; `delivery_store.DeliveryStore` is one. All raise Unavailable."""

    async def lease(self, count: int, lease_ms: int) -> list[Leased]: ...

    async def delivered(self, leased: Leased) -> None: ...

    async def again(self, leased: Leased, delivery: Delivery, due_ms: int) -> None: ...

    async def undelivered(self, leased: Leased, letter: DeadLetter) -> None: ...


class Deliveries:
    """`targets`: scheme (what stands before the first colon) → kind of destination."""

    def __init__(self, leases: Leases, targets: Mapping[str, Target], now_ms: Callable[[], int]) -> None:
        self._leases = leases
        self._targets = targets
        self._now_ms = now_ms
        self._under_way: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Deliver, for as long as the gateway runs."""
        try:
            while True:
                try:
                    found = await self._leases.lease(AT_ONCE - len(self._under_way), LEASE_MS)
                    pause = LOOK_S
                except JiffyError:
                    found, pause = [], TROUBLE_S
                for leased in found:
                    task = asyncio.create_task(self._try(leased))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
                if len(self._under_way) == AT_ONCE:
                    await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                elif not found:
                    await asyncio.sleep(pause)
        finally:
            for task in self._under_way:
                task.cancel()

    async def _try(self, leased: Leased) -> None:
        delivery = leased.delivery
        try:
            try:
                target = self._targets.get(delivery.target.partition(":")[0])
                if target is None:
                    raise InvalidRequest(f"no destination is like {delivery.target[:80]!r}")
                if delivery.depth > limits.DESTINATIONS_DEEP:
                    raise InvalidRequest(f"{limits.DESTINATIONS_DEEP} destinations led here: they go in a circle")
                await target.deliver(delivery, await asyncio.to_thread(event, delivery))
            except JiffyError as exc:
                await self._failed(leased, exc)
            else:
                await self._leases.delivered(leased)
        except JiffyError:
            return  # Redis is gone: the lease ends by itself, and somebody tries again

    async def _failed(self, leased: Leased, error: JiffyError) -> None:
        delivery, now_ms = leased.delivery, self._now_ms()
        outcome = Outcome.PLATFORM if isinstance(error, Unavailable) else Outcome.ERROR
        chance = random.random()  # noqa: S311 - spreads load, guards nothing
        terms = delivery.terms._replace(unbegun=0)  # it waits for hosts as long as it may
        verdict = retry.after(outcome, outcome is Outcome.ERROR, terms, now_ms, chance)
        if verdict.state is State.QUEUED and verdict.terms is not None and not isinstance(error, InvalidRequest):
            due_ms = max(verdict.due_ms, now_ms + int(1000 * min(error.retry_after_s or 0.0, limits.BACKOFF_MAX_S)))
            again = delivery._replace(terms=verdict.terms, error=error.message[:ERROR_MAX_CHARS])
            await self._leases.again(leased, again, due_ms)
            return
        text = json.dumps({"errorType": "Jiffy.Undelivered", "errorMessage": error.message}).encode()
        letter = DeadLetter(
            *(delivery.id, delivery.tenant, delivery.function, delivery.revision, "undelivered"),
            attempts=delivery.terms.tried + 1,
            accepted_ms=delivery.ended_ms,
            dead_ms=now_ms,
            outcome=delivery.outcome,
            error=text,
            trigger="destination",
            payload_bytes=len(delivery.request) + len(delivery.response),
            target=delivery.target,
        )
        await self._leases.undelivered(leased, letter)


class FunctionTarget:
    """``function:NAME``: an asynchronous call, accepted once for each delivery."""

    def __init__(self, catalog: Catalog, acceptance: Acceptance) -> None:
        self._catalog = catalog
        self._acceptance = acceptance

    async def deliver(self, delivery: Delivery, event: bytes) -> None:
        function = await self._catalog.find(delivery.tenant, delivery.target.removeprefix("function:"))
        claim = once.claim(function, delivery.id, kind="delivery-")
        trigger = f"destination {delivery.function}"
        await self._acceptance.accept(
            function, event, trigger=trigger, wishes=Wishes(depth=delivery.depth), claim=claim, counted=True
        )


def event(delivery: Delivery) -> bytes:
    """What a destination is told, as AWS Lambda's asynchronous destinations are (their invocation record 1.0).

    A payload that is no JSON, or for which there is no room, is null. What a budget tells is told as it is.
    """
    if delivery.reason == REASON:
        return delivery.response
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(delivery.ended_ms / 1000))
    conditions = {"": "Success", retry.Reason.EXPIRED: "EventAgeExceeded"}
    ok = delivery.outcome == "ok"
    document = {
        "version": "1.0",
        "timestamp": f"{stamp}.{delivery.ended_ms % 1000:03d}Z",
        "requestContext": {
            "requestId": delivery.invocation,
            "functionArn": f"{delivery.tenant}:{delivery.function}:{delivery.revision}",
            "condition": conditions.get(delivery.reason, "RetriesExhausted"),
            "approximateInvokeCount": delivery.attempts,
        },
        "responseContext": {"statusCode": 200, "executedVersion": str(delivery.revision)}
        | ({} if ok else {"functionError": "Unhandled"}),
    }
    head = json.dumps(document, separators=(",", ":")).encode()[:-1]
    room = limits.PAYLOAD_MAX_BYTES - len(head) - 64
    response = _json(delivery.response, room)
    request = _json(delivery.request, room - len(response))
    return b'%b,"requestPayload":%b,"responsePayload":%b}' % (head, request, response)


def _json(payload: bytes, room: int) -> bytes:
    try:
        json.loads(payload)
    except (ValueError, RecursionError):
        return b"null"
    return payload if len(payload) <= room else b"null"
