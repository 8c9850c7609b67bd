"""Redis Streams and lists that other software writes to, as sources.

A stream is read through a consumer group of the trigger's own. A list has no groups: an element that is taken moves, in
one step, into a hash beside it ({list}:jiffy:{trigger}), and leaves that when it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.triggers.sources.base import Message
from gateway.triggers.sources.redis_errors import translated

CONNECT_MAX_S = 5.0
PATIENCE_S = 10.0  # beyond what a read may wait
CONSUMER = "jiffy"  # one consumer at a time has a source open: what it left is its successor's

TAKE = """
-- Takes up to ARGV[1] elements: those first that a blocked read left aside. Returns id, element, tries, id, …
-- KEYS: the list, {held}:aside (list), {held} (hash id → element), {held}:tries (hash id → number, and "last" id)
-- ARGV[2]: "LPOP" or "RPOP"
local out = {}
for _ = 1, tonumber(ARGV[1]) do
  local element = redis.call('LPOP', KEYS[2]) or redis.call(ARGV[2], KEYS[1])
  if not element then break end
  local id = redis.call('HINCRBY', KEYS[4], 'last', 1)
  redis.call('HSET', KEYS[3], id, element)
  redis.call('HSET', KEYS[4], id, 1)
  out[#out + 1] = tostring(id)
  out[#out + 1] = element
  out[#out + 1] = 1
end
return out
"""

LEFT = """
-- What was taken and is not done: id, element, tries (one more now), id, …  KEYS: {held}, {held}:tries (hashes)
local out = {}
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
  out[#out + 1] = id
  out[#out + 1] = redis.call('HGET', KEYS[1], id)
  out[#out + 1] = redis.call('HINCRBY', KEYS[2], id, 1)
end
return out
"""


class _Connected:
    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key
        self._redis: Any = None

    async def _connect(self) -> None:
        self._redis = Redis.from_url(
            self._url, protocol=2, socket_connect_timeout=CONNECT_MAX_S, socket_timeout=PATIENCE_S
        )
        with translated():
            await self._redis.ping()

    async def close(self) -> None:
        if self._redis is not None:
            with translated():
                await self._redis.aclose()


class RedisStream(_Connected):
    """`group` reads the stream `key` from its beginning, or from now on (`start` is "0" or "$")."""

    def __init__(self, url: str, key: str, group: str, start: str = "0") -> None:
        super().__init__(url, key)
        self._group = group
        self._start = start
        self._left: str | None = "0-0"  # from where to look for what a consumer before left

    async def open(self, most: int) -> None:
        await self._connect()
        self._left = "0-0"
        with translated():
            try:
                await self._redis.xgroup_create(self._key, self._group, id=self._start, mkstream=True)
            except ResponseError as exc:
                if "BUSYGROUP" not in str(exc):
                    raise

    async def take(self, most: int, wait_s: float) -> list[Message]:
        with translated():
            while self._left is not None:
                found = await self._again(most)
                if found:
                    return found
            answer = await self._redis.xreadgroup(
                self._group, CONSUMER, {self._key: ">"}, count=most, block=max(1, int(wait_s * 1000))
            )
        return [self._message(entry, fields, 1) for entry, fields in (answer[0][1] if answer else [])]

    async def _again(self, most: int) -> list[Message]:
        """What was handed out before and is not done, of any consumer of the group."""
        following, entries, *_ = await self._redis.xautoclaim(
            self._key, self._group, CONSUMER, min_idle_time=0, start_id=self._left, count=most
        )
        self._left = None if following == b"0-0" else following.decode()
        live = [(entry, fields) for entry, fields in entries if fields]
        if not live:
            return []
        pending = await self._redis.xpending_range(self._key, self._group, live[0][0], live[-1][0], len(entries))
        tries = {one["message_id"]: one["times_delivered"] for one in pending}
        return [self._message(entry, fields, tries.get(entry, 2)) for entry, fields in live]

    def _message(self, entry: bytes, fields: dict[bytes, bytes], tries: int) -> Message:
        """The body is the field "body" or the only field there is; else all fields as a JSON object."""
        texts = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}
        if "body" in texts:
            body = texts.pop("body")
        elif len(texts) == 1:
            ((_, body),) = texts.items()
            texts = {}
        else:
            body, texts = json.dumps(texts, ensure_ascii=False), {}
        identity = entry.decode()
        return Message(identity, body, tries, int(identity.partition("-")[0]), texts, (entry, fields))

    async def done(self, messages: Sequence[Message]) -> None:
        with translated():
            await self._redis.xack(self._key, self._group, *(message.receipt[0] for message in messages))

    async def bury(self, message: Message, target: str, reason: str) -> None:
        entry, fields = message.receipt
        pipe = self._redis.pipeline(transaction=True)
        pipe.xadd(target, {**fields, b"jiffy-reason": reason, b"jiffy-id": entry})
        pipe.xack(self._key, self._group, entry)
        with translated():
            await pipe.execute()

    async def lag(self) -> int:
        with translated():
            for group in await self._redis.xinfo_groups(self._key):
                if group["name"] == self._group.encode():
                    return int(group.get("lag") or 0) + int(group["pending"])
        return 0


class RedisList(_Connected):
    """`end` is where elements are taken from: "left" (writers RPUSH) or "right" (writers LPUSH)."""

    def __init__(self, url: str, key: str, group: str, end: str = "left") -> None:
        super().__init__(url, key)
        self._held = f"{key}:jiffy:{group}"
        self._aside, self._tries = f"{self._held}:aside", f"{self._held}:tries"
        self._end = end.upper()
        self._left: list[Message] = []

    async def open(self, most: int) -> None:
        await self._connect()
        self._take = self._redis.register_script(TAKE)
        with translated():
            flat = await self._redis.eval(LEFT, 2, self._held, self._tries)
        self._left = sorted(_elements(flat), key=lambda message: int(message.id))

    async def take(self, most: int, wait_s: float) -> list[Message]:
        if self._left:
            found, self._left = self._left[:most], self._left[most:]
            return found
        with translated():
            found = await self._now(most)
            if not found and await self._redis.blmove(self._key, self._aside, wait_s, self._end, "RIGHT") is not None:
                found = await self._now(most)
        return found

    async def _now(self, most: int) -> list[Message]:
        names = [self._key, self._aside, self._held, self._tries]
        return _elements(await self._take(keys=names, args=[most, f"{self._end[0]}POP"]))

    async def done(self, messages: Sequence[Message]) -> None:
        ids = [message.id for message in messages]
        pipe = self._redis.pipeline(transaction=True)
        pipe.hdel(self._held, *ids)
        pipe.hdel(self._tries, *ids)
        with translated():
            await pipe.execute()

    async def bury(self, message: Message, target: str, reason: str) -> None:
        """The element as it was: what reads lists expects its own kind, so the reason is in the trigger's log only."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.rpush(target, message.receipt)
        pipe.hdel(self._held, message.id)
        pipe.hdel(self._tries, message.id)
        with translated():
            await pipe.execute()

    async def lag(self) -> int:
        pipe = self._redis.pipeline(transaction=True)
        pipe.llen(self._key)
        pipe.llen(self._aside)
        pipe.hlen(self._held)
        with translated():
            return sum(await pipe.execute())


def _elements(flat: list[Any]) -> list[Message]:
    now_ms = int(time.time() * 1000)
    return [
        Message(identity.decode(), element.decode("utf-8", "replace"), tries, now_ms, {}, element)
        for identity, element, tries in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    ]
