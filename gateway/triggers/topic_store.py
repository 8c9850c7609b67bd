"""All that topics say to Redis: a stream of events each, settings, and a consumer group per subscription."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.store import translated
from jiffy.contract import keys, limits, outage
from jiffy.contract.errors import NotFound

LAST = 2**64 - 1  # of the entries that one millisecond can have


class TopicState(NamedTuple):
    """What a topic holds."""

    events: int
    first_ms: int  # 0: none
    last_ms: int
    subscriptions: tuple[str, ...]


def put(pipe: Any, tenant: str, name: str, entries: Sequence[Mapping[str, Any]], keep_s: int, now_ms: int) -> None:
    """Entries for a topic, which forgets what is older than `keep_s`: when one comes, and when none comes any more."""
    stream = keys.topic(tenant, name)
    pipe.hsetnx(keys.topics(tenant), name, "{}")
    pipe.xtrim(stream, minid=f"{now_ms - keep_s * 1000}-0", approximate=False)
    for entry in entries:
        pipe.xadd(stream, dict(entry), maxlen=limits.TOPIC_EVENTS_MAX, approximate=True)
    pipe.expire(stream, keep_s)


async def bury(redis: Any, pipe: Any, tenant: str, name: str, event: str, reason: str) -> None:
    """Put on `pipe` an event that was given up, for a topic of dead letters."""
    text = await redis.hget(keys.topics(tenant), name)
    keep_s = json.loads(text or b"{}").get("keep_s", limits.TOPIC_KEEP_DEFAULT_S)
    seconds, _ = await redis.time()
    put(pipe, tenant, name, [{"e": event, "reason": reason}], keep_s, int(seconds) * 1000)


class TopicStore:
    """`client` is gateway.store.Store's; so many `replicas` hold what is published before anybody is told so."""

    def __init__(self, client: Redis, replicas: int = 0) -> None:
        self._redis: Any = client
        self._replicas = replicas

    async def publish(self, tenant: str, name: str, events: Sequence[bytes], keep_s: int, now_ms: int) -> list[str]:
        """Put events on a topic, for all of its subscribers, in one atomic step; their ids."""
        entries = [{"e": event} for event in events]
        pipe = self._redis.pipeline(transaction=not self._replicas)
        with translated():
            if not self._replicas:
                put(pipe, tenant, name, entries, keep_s, now_ms)
                return [entry.decode() for entry in (await pipe.execute())[2:-1]]
            pipe.execute_command("MULTI")  # by hand: WAIT is about this connection, and waits only outside of it
            put(pipe, tenant, name, entries, keep_s, now_ms)
            pipe.execute_command("EXEC")
            *_, made, replicas = await pipe.wait(self._replicas, int(outage.REPLICAS_WAIT_S * 1000)).execute()
        outage.held(replicas, self._replicas)
        return [entry.decode() for entry in made[2:-1]]

    async def settings(self, tenant: str) -> dict[str, dict[str, Any]]:
        """All topics with their settings."""
        with translated():
            found = await self._redis.hgetall(keys.topics(tenant))
        return {name.decode(): json.loads(text) for name, text in sorted(found.items())}

    async def set(self, tenant: str, name: str, settings: dict[str, Any], now_ms: int) -> None:
        """`settings` has keep_s; what is older is forgotten."""
        stream, keep_s = keys.topic(tenant, name), settings["keep_s"]
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(keys.topics(tenant), name, json.dumps(settings))
        pipe.xtrim(stream, minid=f"{now_ms - keep_s * 1000}-0", approximate=False)
        pipe.expire(stream, keep_s)
        with translated():
            await pipe.execute()

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
