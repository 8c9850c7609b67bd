"""All that topics say to Redis: a stream of events each, settings, and a consumer group per subscription."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.store import translated
from jiffy.contract import keys, limits
from jiffy.contract.errors import NotFound

LAST = 2**64 - 1  # of the entries that one millisecond can have


class TopicState(NamedTuple):
    """What a topic holds."""

    events: int
    first_ms: int  # 0: none
    last_ms: int
    subscriptions: tuple[str, ...]


class TopicStore:
    """`client` is gateway.store.Store's."""

    def __init__(self, client: Redis) -> None:
        self._redis: Any = client

    async def publish(self, tenant: str, name: str, events: Sequence[bytes], keep_from_ms: int) -> list[str]:
        """Put events on a topic, for all of its subscribers, in one atomic step; their ids."""
        stream = keys.topic(tenant, name)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hsetnx(keys.topics(tenant), name, "{}")
        pipe.xtrim(stream, minid=f"{keep_from_ms}-0", approximate=False)
        for event in events:
            pipe.xadd(stream, {"e": event}, maxlen=limits.TOPIC_EVENTS_MAX, approximate=True)
        with translated():
            return [entry.decode() for entry in (await pipe.execute())[2:]]

    async def settings(self, tenant: str) -> dict[str, dict[str, Any]]:
        """All topics with their settings."""
        with translated():
            found = await self._redis.hgetall(keys.topics(tenant))
        return {name.decode(): json.loads(text) for name, text in sorted(found.items())}

    async def set(self, tenant: str, name: str, settings: dict[str, Any]) -> None:
        with translated():
            await self._redis.hset(keys.topics(tenant), name, json.dumps(settings))

    async def remove(self, tenant: str, name: str) -> bool:
        pipe = self._redis.pipeline(transaction=True)
        pipe.hdel(keys.topics(tenant), name)
        pipe.delete(keys.topic(tenant, name))
        with translated():
            return bool((await pipe.execute())[0])

    async def state(self, tenant: str, name: str) -> TopicState:
        stream = keys.topic(tenant, name)
        pipe = self._redis.pipeline(transaction=False)
        pipe.xlen(stream)
        pipe.xrange(stream, count=1)
        pipe.xrevrange(stream, count=1)
        with translated():
            count, first, last = await pipe.execute()
            groups = await self._redis.xinfo_groups(stream) if await self._redis.exists(stream) else []
        return TopicState(count, _at(first), _at(last), tuple(sorted(group["name"].decode() for group in groups)))

    async def events(self, tenant: str, name: str, from_ms: int, count: int) -> list[tuple[str, bytes]]:
        with translated():
            found = await self._redis.xrange(keys.topic(tenant, name), f"{from_ms}-0", count=count)
        return [(entry.decode(), fields[b"e"]) for entry, fields in found]

    async def rewind(self, tenant: str, names: Sequence[str], group: str, from_ms: int) -> None:
        """Let a subscription read these topics again, from a moment on. Raises NotFound: it never read one."""
        with translated():
            for name in names:
                try:
                    await self._redis.xgroup_setid(
                        keys.topic(tenant, name), group, f"{max(0, from_ms - 1)}-18446744073709551615"
                    )
                except ResponseError as exc:
                    raise NotFound(f"{group} has not read topic {name!r} yet: {exc}") from exc

    async def leave(self, tenant: str, group: str) -> None:
        """A subscription is no more."""
        with translated():
            for name in await self._redis.hkeys(keys.topics(tenant)):
                stream = keys.topic(tenant, name.decode())
                if await self._redis.exists(stream):
                    await self._redis.xgroup_destroy(stream, group)


def _at(entries: list[tuple[bytes, Any]]) -> int:
    """When the first of these was published."""
    return int(entries[0][0].partition(b"-")[0]) if entries else 0
