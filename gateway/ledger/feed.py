"""All that the ledger says to Redis: read the usage stream, forget what is settled, take the lease.

Blocking, because settling runs in a thread. Redis errors leave here as `Unavailable`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import redis

from jiffy import primary
from jiffy.contract import address, keys, outage
from jiffy.contract.clock import Clock
from jiffy.contract.errors import Unavailable

REPLY_ENTRIES = 128  # parsing one reply holds the interpreter, so the event loop too: 0.2 ms
ANSWER_S = 5.0  # a Redis that is silent for longer counts as gone

# KEYS[1] stream of usage; ARGV[1] id of the last entry that was read and is settled.
# Trims only while that entry is there: a stream that began anew (an emptied Redis, another one, a clock set back) may
# hold smaller ids that nobody has read yet.
FORGET = """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
local gone = redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1])
return gone + redis.call('XDEL', KEYS[1], ARGV[1])
"""

# KEYS[1] string: who settles; ARGV[1] who asks, ARGV[2] for how many ms.
LEASE = f"""{outage.EVEN_WHEN_FULL}
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


# A write that changes nothing, after which WAIT is about all that was written before. KEYS[1] metered (string)
MARK = f"{outage.EVEN_WHEN_FULL}\nreturn redis.call('INCRBY', KEYS[1], 0)\n"


class Entry(NamedTuple):
    """One entry of the stream."""

    id: str
    data: bytes | None  # Usage; None: it has no field `u`
    provision: bytes | None = None  # Provision: what stands in its place


class Feed(Protocol):
    """Where usage records come from. What it still holds is what has not been settled."""

    def read(self, count: int) -> list[Entry]:
        """The oldest `count` entries."""

    def forget(self, last: str) -> None:
        """Drop everything up to and including the entry `last`, which `read` gave."""

    def waiting(self) -> int:
        """How many entries it holds."""

    def lease(self, holder: str, ttl_ms: int) -> bool:
        """May `holder` be the one who settles in the background for the next `ttl_ms`?"""

    def close(self) -> None: ...


class RedisFeed:
    """The usage stream in Redis."""

    def __init__(self, url: str) -> None:
        self._replicas = address.parse(url).replicas
        self._redis = primary.blocking(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S)
        # The reply as it comes is all that is needed; redis-py's dicts would cost as much as the decoding.
        self._redis.set_response_callback("XRANGE", lambda reply, **_: reply)
        self._forget = self._redis.register_script(FORGET)
        self._lease = self._redis.register_script(LEASE)
        self._clock = Clock()

    def now_ms(self) -> int:
        """Epoch milliseconds on the server's clock, as it was told with the last lease."""
        return self._clock() // 1000

    def read(self, count: int) -> list[Entry]:
        entries: list[Entry] = []
        start = "-"
        while len(entries) < count:
            wanted = min(REPLY_ENTRIES, count - len(entries))
            with self._asking():
                reply = self._page(start, wanted)
            entries += [Entry(entry_id.decode(), *_fields(fields)) for entry_id, fields in reply]
            if len(reply) < wanted:
                break
            start = f"({entries[-1].id}"
        return entries

    def _page(self, start: str, count: int) -> Any:
        """What was read is not settled before replicas hold it: after a failover its calls may run, and cost, again."""
        if not self._replicas:
            return self._redis.xrange(keys.USAGE, min=start, count=count)
        pipe: Any = self._redis.pipeline(transaction=False)  # all on one connection, which WAIT is about
        pipe.xrange(keys.USAGE, min=start, count=count)
        pipe.eval(MARK, 1, keys.METERED)
        pipe.wait(self._replicas, int(outage.REPLICAS_WAIT_S * 1000))
        found, _, replicas = pipe.execute()
        outage.held(replicas, self._replicas)
        return found

    def forget(self, last: str) -> None:
        with self._asking():
            self._forget(keys=[keys.USAGE], args=[last])

    def waiting(self) -> int:
        with self._asking():
            length: Any = self._redis.xlen(keys.USAGE)
        return int(length)

    def lease(self, holder: str, ttl_ms: int) -> bool:
        with self._asking():
            self._ask_the_time()
            return bool(self._lease(keys=[keys.LEDGER], args=[holder, ttl_ms]))

    def _ask_the_time(self) -> None:
        asked = time.monotonic_ns()
        told: Any = self._redis.time()
        self._clock.set(told[0] * 1_000_000 + told[1], asked, time.monotonic_ns())

    def close(self) -> None:
        self._redis.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as exc:
            raise Unavailable(f"the ledger can't read usage records: {exc}", retry_after_s=1) from exc


def _fields(fields: list[bytes]) -> tuple[bytes | None, bytes | None]:
    if fields[0] == b"u":  # nearly always the only one
        return fields[1], None
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    return pairs.get(b"u"), pairs.get(b"p")
