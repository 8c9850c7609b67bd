"""Jiffy's own publish and subscribe: an event is checked, and stands on its topic for every subscriber, in one step.

A topic is a stream that keeps its events for a while; each subscription is a consumer group that reads it at its own
pace (sources/topic.py, consumer.py). So fan-out costs one write whatever the number of subscribers, a subscriber that
is paused misses nothing, and replaying is reading again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

from gateway.triggers import cloudevent, schemas
from gateway.triggers.topic_store import TopicStore
from jiffy.contract import limits
from jiffy.contract.errors import Conflict, InvalidRequest, PayloadTooLarge

SETTINGS_S = 1.0  # how old a topic's settings may be
WORK_MAX = 10_000_000  # schemas × parts of a request's events: about half a second, in which nobody else is served
TOLD_MAX = 500_000  # beyond, what is wrong is not looked for: every way it could be right would be written down
HOPS = "jiffyhops"  # the extension that counts functions which an event went through


class Published(NamedTuple):
    """Events as they stand on their topic."""

    topic: str
    ids: tuple[str, ...]  # the topic's, in order


class _Settings(NamedTuple):
    keep_s: int
    validator: Draft202012Validator | None = None
    cost: int = 0  # schemas.cost
    wrong: str = ""  # why the schema can't be used: another release took it


class Topics:
    def __init__(self, store: TopicStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._settings: dict[str, dict[str, _Settings]] = {}
        self._read_at: dict[str, float] = {}

    async def publish(self, tenant: str, name: str, events: Sequence[dict[str, Any]]) -> Published:
        """Raises InvalidRequest: an event is not what the topic's schema says. All are published, or none."""
        known = await self._known(tenant)
        settings = known.get(name)
        if settings is None and len(known) >= limits.TOPICS_MAX:
            raise Conflict(f"there are {len(known)} topics; remove one first")
        packed, work = [], 0
        for number, event in enumerate(events, 1):
            packed.append(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())
            if len(packed[-1]) > limits.PAYLOAD_MAX_BYTES:
                raise PayloadTooLarge(f"event {number} is larger than {limits.PAYLOAD_MAX_BYTES} bytes")
            if settings is not None and (settings.validator is not None or settings.wrong):
                work += settings.cost * (1 + sum(packed[-1].count(sign) for sign in (b",", b"[", b"{")))
                _validate(settings, event, work, name, number)
        keep_s = settings.keep_s if settings is not None else limits.TOPIC_KEEP_DEFAULT_S
        ids = await self._store.publish(tenant, name, packed, keep_s, self._now_ms())
        return Published(name, tuple(ids))

    async def publish_result(
        self, tenant: str, name: str, function: str, invocation: str, result: bytes, causes: Sequence[dict[str, Any]]
    ) -> str:
        """Publish what a function returned; "" or the reason why not. An event goes through so many functions only."""
        hops = max((_hops(cause) for cause in causes), default=0) + 1
        if hops > limits.TOPIC_HOPS_MAX:
            return f"a loop: this event has come through {limits.TOPIC_HOPS_MAX} functions that publish their results"
        attributes = {
            "id": invocation,
            "source": f"/functions/{function}",
            "type": f"{function}.result",
            "datacontenttype": "application/json",
            HOPS: str(hops),
        }
        try:
            await self.publish(tenant, name, [cloudevent.make(attributes, cloudevent.parse(result or b"null"))])
        except (InvalidRequest, Conflict, PayloadTooLarge, ValueError) as exc:
            return f"its result can't be published to {name}: {exc}"
        return ""

    async def leave(self, tenant: str, group: str) -> None:
        """A subscription is no more. Raises Unavailable."""
        await self._store.leave(tenant, group)

    async def set(self, tenant: str, name: str, keep_s: int, schema: Any) -> None:
        """Declare how long a topic keeps events, and what their data must be. Raises InvalidRequest."""
        if schema is not None:
            try:
                schemas.cost(schema)
            except ValueError as exc:
                raise InvalidRequest(f"the schema is not taken: {exc}") from exc
            validator(schema)
        await self._store.set(tenant, name, {"keep_s": keep_s, "schema": schema}, self._now_ms())
        self._read_at.pop(tenant, None)

    async def _known(self, tenant: str) -> dict[str, _Settings]:
        now = asyncio.get_running_loop().time()
        if now - self._read_at.get(tenant, float("-inf")) > SETTINGS_S:
            found = await self._store.settings(tenant)
            self._settings[tenant] = {name: _settings(one) for name, one in found.items()}
            self._read_at[tenant] = now
        return self._settings[tenant]


def _settings(one: dict[str, Any]) -> _Settings:
    schema = one.get("schema")
    keep_s = int(one.get("keep_s", limits.TOPIC_KEEP_DEFAULT_S))
    if schema is None:
        return _Settings(keep_s)
    try:
        return _Settings(keep_s, cost=schemas.cost(schema), validator=validator(schema))
    except (ValueError, InvalidRequest) as exc:
        return _Settings(keep_s, wrong=str(exc))


def validator(schema: Any) -> Draft202012Validator:
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), retriever=_nothing_from_outside)
    except (ValueError, ValidationError, TypeError) as exc:
        raise InvalidRequest(f"the schema is no JSON Schema (2020-12): {str(exc).splitlines()[0][:300]}") from exc


def _nothing_from_outside(uri: str) -> Any:
    raise ValueError(f"a schema stands by itself; {uri[:100]} is outside of it")


def _validate(settings: _Settings, event: dict[str, Any], work: int, topic: str, number: int) -> None:
    if settings.validator is None:
        raise InvalidRequest(f"the schema of {topic} can't be used: {settings.wrong}; settle the topic again")
    if work > WORK_MAX:
        raise PayloadTooLarge(f"event {number} has too many parts for the schema of {topic}")
    data = event.get("data")
    if settings.validator.is_valid(data):
        return
    error = next(iter(settings.validator.iter_errors(data)), None) if work <= TOLD_MAX else None
    if error is None:
        raise InvalidRequest(f"event {number}: its data is not what {topic} takes")
    where = "".join(f"/{part}" for part in error.instance_path) or "/"
    raise InvalidRequest(f"event {number}: data{where} is not what {topic} takes: {error.message[:300]}")


def _hops(event: dict[str, Any]) -> int:
    text = str(event.get(HOPS, 0))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
