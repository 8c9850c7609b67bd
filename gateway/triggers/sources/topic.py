"""A subscription to the platform's own topics as a source: one consumer group over all topics that its pattern matches.

A topic that is new is joined within LOOK_S, from the moment on at which the subscription began: nothing is missed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from gateway.triggers import topic_store
from gateway.triggers.sources.base import Message
from gateway.triggers.sources.redis_errors import translated
from jiffy import primary
from jiffy.contract import keys, topics

CONNECT_MAX_S, PATIENCE_S = 5.0, 10.0
LOOK_S = 0.5  # how often a pattern is held against the topics there are
CONSUMER = "jiffy"


def group_of(function: str, trigger: str) -> str:
    """The consumer group of a subscription."""
    return f"{function}/{trigger}"


class TopicSource:
    def __init__(self, url: str, tenant: str, pattern: str, group: str, since_ms: int) -> None:
        self._url = url
        self._tenant = tenant
        self._pattern = pattern
        self._group = group
        self._since_ms = since_ms
        self._streams: dict[str, str] = {}  # stream → topic
        self._left: dict[str, str] = {}  # stream → from where to look for what a consumer before left
        self._looked = 0.0
        self._redis: Any = None

    async def open(self, most: int) -> None:
        self._redis = primary.client(self._url, socket_connect_timeout=CONNECT_MAX_S, socket_timeout=PATIENCE_S)
        with translated():
            if "*" not in self._pattern:
                await self._join(self._pattern)
            await self._look()
        self._left = dict.fromkeys(self._streams, "0-0")

    async def _look(self) -> None:
        if "*" in self._pattern and time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            for name in await self._redis.hkeys(keys.topics(self._tenant)):
                if topics.matches(self._pattern, name.decode()):
                    await self._join(name.decode())

    async def _join(self, topic: str) -> None:
        stream = keys.topic(self._tenant, topic)
        if stream in self._streams:
            return
        await self._redis.hsetnx(keys.topics(self._tenant), topic, "{}")  # who waits for a topic makes it, too
        try:
            await self._redis.xgroup_create(stream, self._group, id=f"{self._since_ms}-0", mkstream=True)
        except ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise
        self._streams[stream] = topic

    async def take(self, most: int, wait_s: float) -> list[Message]:
        until = time.monotonic() + wait_s
        with translated():
            while True:
                await self._look()
                while self._left:
                    if found := await self._again(most):
                        return found
                left_s = max(0.001, min(until - time.monotonic(), LOOK_S))
                if not self._streams:
                    await asyncio.sleep(left_s)
                elif found := await self._new(most, left_s):
                    return found
                if time.monotonic() >= until:
                    return []

    async def _new(self, most: int, wait_s: float) -> list[Message]:
        try:
            answer = await self._redis.xreadgroup(
                *(self._group, CONSUMER, dict.fromkeys(self._streams, ">")),
                count=max(1, most // len(self._streams)),  # of each topic
                block=max(1, int(wait_s * 1000)),
            )
        except ResponseError as exc:  # a topic was removed, or has forgotten all that it had: it is joined anew
            if "NOGROUP" not in str(exc) and "UNBLOCKED" not in str(exc):
                raise
            self._streams.clear()
            self._looked = 0.0
            if "*" not in self._pattern:
                await self._join(self._pattern)
            return []
        return [
            self._message(stream, entry, fields, 1) for stream, entries in answer or () for entry, fields in entries
        ]

    async def _again(self, most: int) -> list[Message]:
        stream, start = next(iter(self._left.items()))
        following, entries, *_ = await self._redis.xautoclaim(
            stream, self._group, CONSUMER, min_idle_time=0, start_id=start, count=most
        )
        if following == b"0-0":
            del self._left[stream]
        else:
            self._left[stream] = following.decode()
        live = [(entry, fields) for entry, fields in entries if fields]
        if not live:
            return []
        pending = await self._redis.xpending_range(stream, self._group, live[0][0], live[-1][0], len(entries))
        tries = {one["message_id"]: one["times_delivered"] for one in pending}
        return [self._message(stream, entry, fields, tries.get(entry, 2)) for entry, fields in live]

    def _message(self, stream: str | bytes, entry: bytes, fields: dict[bytes, bytes], tries: int) -> Message:
        name = stream.decode() if isinstance(stream, bytes) else stream
        identity = entry.decode()
        topic = self._streams[name]
        return Message(
            id=f"{topic}:{identity}",
            body=fields[b"e"].decode(),
            tries=tries,
            sent_ms=int(identity.partition("-")[0]),
            attributes={"topic": topic},
            receipt=(name, entry),
        )

    async def done(self, messages: Sequence[Message]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for stream in {message.receipt[0] for message in messages}:
            pipe.xack(stream, self._group, *(m.receipt[1] for m in messages if m.receipt[0] == stream))
        with translated():
            await pipe.execute()

    async def bury(self, message: Message, target: str, reason: str) -> None:
        stream, entry = message.receipt
        pipe = self._redis.pipeline(transaction=True)
        with translated():
            await topic_store.bury(self._redis, pipe, self._tenant, target, message.body, reason)
            pipe.xack(stream, self._group, entry)
            await pipe.execute()

    async def lag(self) -> int:
        waiting = 0
        with translated():
            for stream in list(self._streams):
                for group in await self._redis.xinfo_groups(stream):
                    if group["name"] == self._group.encode():
                        waiting += int(group.get("lag") or 0) + int(group["pending"])
        return waiting

    async def close(self) -> None:
        if self._redis is not None:
            with translated():
                await self._redis.aclose()
