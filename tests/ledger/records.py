"""Usage records for tests, and the way they get into the stream."""

from __future__ import annotations

import uuid_utils
from redis import Redis

from gateway.ledger.feed import Entry
from jiffy.contract import keys, meter, wire
from jiffy.contract.messages import Outcome, Provision, Usage

NOON_MS = 1_793_534_400_000  # 2026-11-01T12:00:00Z


def record(
    function: str = "hello",
    *,
    invocation: str | None = None,
    attempt: int = 1,
    tenant: str = "default",
    revision: int = 1,
    trigger: str = "http",
    started_ms: int = NOON_MS,
    outcome: Outcome = Outcome.OK,
    cold: bool = False,
    duration_us: int = 2041,
    memory_mb: int = 128,
    runtime: str = "python3.11",
    tags: str = "",
    tariff: meter.Tariff = meter.DEFAULT,
) -> Usage:
    init_us = 31_000 if cold else 0
    return Usage(
        invocation=invocation or str(uuid_utils.uuid7()),
        attempt=attempt,
        tenant=tenant,
        function=function,
        revision=revision,
        trigger=trigger,
        invoker="host-1",
        started_ms=started_ms,
        outcome=outcome.value,
        cold=cold,
        duration_us=duration_us,
        billed_ms=meter.billed_ms(duration_us, outcome, tariff, init_us),
        init_us=init_us,
        queue_us=120,
        memory_mb=memory_mb,
        max_memory_bytes=23_000_000,
        cpu_us=1800,
        bytes_in=20,
        bytes_out=300,
        book=tariff.book,
        runtime=runtime,
        tags=tags,
    )


def minute(
    function: str = "hello",
    *,
    tenant: str = "default",
    revision: int = 1,
    started_ms: int = NOON_MS,
    provisioned_ms: int = 60_000,
    idle_ms: int = 0,
    memory_mb: int = 128,
    runtime: str = "python3.11",
    tags: str = "",
) -> Provision:
    """What was kept ready in one minute."""
    return Provision(
        *(str(uuid_utils.uuid4()), tenant, function, revision, "host-1", started_ms),
        *(provisioned_ms, min(idle_ms, provisioned_ms), memory_mb, runtime, tags),
    )


def meter_into(redis_url: str, *usages: Usage | Provision) -> None:
    """As an invoker does when it completes calls, and when a minute is over."""
    with Redis.from_url(redis_url) as client:
        pipeline = client.pipeline(transaction=False)
        for one in usages:
            pipeline.xadd(keys.USAGE, {"u" if isinstance(one, Usage) else "p": wire.pack(one)})
        pipeline.execute()


def waiting(redis_url: str) -> int:
    with Redis.from_url(redis_url) as client:
        return int(client.xlen(keys.USAGE))


class MemoryFeed:
    """The in-memory twin of gateway.ledger.feed.RedisFeed."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._number = 0
        self._holder = ""

    def put(self, *records: Usage | Provision) -> None:
        for one in records:
            if isinstance(one, Usage):
                self.put_raw(wire.pack(one))
            else:
                self.put_raw(None, wire.pack(one))

    def put_raw(self, data: bytes | None, provision: bytes | None = None) -> None:
        self._number += 1
        self._entries.append(Entry(f"{self._number}-0", data, provision))

    def read(self, count: int) -> list[Entry]:
        return self._entries[:count]

    def forget(self, last: str) -> None:
        ids = [entry.id for entry in self._entries]
        if last in ids:
            del self._entries[: ids.index(last) + 1]

    def waiting(self) -> int:
        return len(self._entries)

    def lease(self, holder: str, ttl_ms: int) -> bool:
        self._holder = self._holder or holder
        return self._holder == holder

    def close(self) -> None:
        pass
