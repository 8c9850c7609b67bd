"""Every promise held against Redis and the ledger, once all is quiet: what is broken, in words."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from gateway.ledger.tables import OUTCOMES
from jiffy import primary
from jiffy.contract import address, keys, layout, wire
from jiffy.contract.messages import InvocationRecord, LogEntry
from tests.chaos.clients import Promised
from tests.chaos.fleet import HEARING, KEY

PAGE = 1000
HEARD_S = 30.0  # for events that a lost gateway had taken: they are due again after a while


class Row(NamedTuple):
    """One attempt in the ledger."""

    attempt: int
    outcome: str
    billed_ms: int


async def quiet(url: str, within_s: float) -> dict[str, Any]:
    """The audit, once nothing is queued or running any more and all of it could be judged. Raises TimeoutError."""
    give_up = time.monotonic() + within_s
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, headers={"x-api-key": KEY}) as http:
        said = ""
        while time.monotonic() < give_up:
            try:
                answer = await http.get("/v1/audit")
            except httpx.TransportError as exc:
                said = repr(exc)
            else:
                said = answer.text
                if answer.status_code == 200 and _settled(found := answer.json()):
                    document: dict[str, Any] = found
                    return document
            await asyncio.sleep(0.5)
    raise TimeoutError(f"it does not come to rest: {said}")


def _settled(found: Mapping[str, Any]) -> bool:
    if any(check["found"] is None for check in found["checks"]):
        return False
    return all(
        tally.get("accepted", 0) + tally.get("replayed", 0)
        == sum(tally.get(s, 0) for s in ("done", "dead", "cancelled"))
        for tally in found["counters"].values()
    )


async def verify(promised: Promised, audit: Mapping[str, Any], redis_url: str, data: Path) -> list[str]:
    """What is broken."""
    broken = list(promised.broken)
    broken += [f"the audit: {check}" for check in audit["checks"] if not check["balanced"]]
    ledger = rows(data)
    async with primary.client(redis_url) as redis:
        records = await _records(redis, list(promised.accepted))
        left = [name async for name in redis.scan_iter(keys.calls("*")) if await redis.xlen(name)]
        unheard = await _unheard(redis, promised.published)
    broken += [f"event {n} was published, and its subscriber did not hear of it" for n in sorted(unheard)]
    broken += [f"calls are left on {name!r}" for name in left]
    for invocation, event in promised.accepted.items():
        record, found = records.get(invocation), ledger.get(invocation, [])
        sure = promised.cancelled.get(invocation)
        if sure or (sure is False and record is not None and record.state == "cancelled"):
            broken += _cancelled(invocation, record, found)
        else:
            excused = ("platform", "crash") if promised.crashes else ("platform",)
            broken += _asynchronous(invocation, event, record, found, excused)
    for invocation, event in promised.answered.items():
        found = ledger.get(invocation, [])
        if not found and address.parse(redis_url).replicas:
            continue  # answered in the moment of a failover, and not billed: docs/guarantees.md
        if [row.outcome for row in found] != ["error" if event["fail"] else "ok"]:
            broken.append(f"synchronous {invocation} was answered, and the ledger has {found}")
    times = Counter(promised.keyed.values())
    broken += [f"{invocation} is the answer to {n} keys" for invocation, n in times.items() if n > 1]
    for invocation, found in ledger.items():
        if sum(row.outcome == "ok" for row in found) > 1:
            broken.append(f"{invocation} was done twice: {found}")
        if any(row.billed_ms for row in found if row.outcome in ("platform", "throttled")):
            broken.append(f"{invocation} was billed for our failure: {found}")
    return broken


def _cancelled(invocation: str, record: InvocationRecord | None, found: Sequence[Row]) -> list[str]:
    if record is None or record.state != "cancelled":
        return [f"{invocation} was taken back, and is not cancelled: {record}"]
    if len(found) != record.attempts or any(row.outcome == "ok" for row in found):
        return [f"{invocation} was taken back, and ran: {found}"]
    return []


async def _unheard(redis: Any, published: set[int]) -> set[int]:
    """Those of which the subscriber has not printed that it heard; it is given time for them."""
    give_up = time.monotonic() + HEARD_S
    while True:
        entries = await redis.xrange(keys.logs("default", HEARING))
        text = b"".join(wire.unpack(LogEntry, fields[b"l"]).text for _, fields in entries)
        unheard = published - {int(n) for n in re.findall(rb"heard (\d+)\.", text)}
        if not unheard or time.monotonic() > give_up:
            return unheard
        await asyncio.sleep(0.5)


def _asynchronous(
    invocation: str,
    event: Mapping[str, Any],
    record: InvocationRecord | None,
    found: Sequence[Row],
    excused: Sequence[str],
) -> list[str]:
    if record is None or record.answer is None:
        return [f"asynchronous {invocation} was accepted and is lost: {record}"]
    attempts = [row.attempt for row in found]
    if attempts != list(range(1, record.attempts + 1)):
        return [f"asynchronous {invocation} had {record.attempts} attempts, the ledger has {found}"]
    if event["fail"]:
        return [] if record.state == "dead" else [f"asynchronous {invocation} should have failed: {record}"]
    if record.state == "done":
        right = json.loads(record.answer.payload) == {"n": event["n"]}
        return [] if right else [f"asynchronous {invocation} has another one's result: {record}"]
    if record.state == "dead" and record.answer.outcome in excused:
        return []  # the platform failed it as often as it may
    return [f"asynchronous {invocation} ended wrongly: {record}"]


async def _records(redis: Any, invocations: Sequence[str]) -> dict[str, InvocationRecord]:
    found: dict[str, InvocationRecord] = {}
    for start in range(0, len(invocations), PAGE):
        page = invocations[start : start + PAGE]
        for invocation, packed in zip(page, await redis.mget([keys.invocation(i) for i in page]), strict=True):
            if packed:
                found[invocation] = wire.unpack(InvocationRecord, packed)
    return found


def rows(data: Path) -> dict[str, list[Row]]:
    """invocation → its attempts, of the whole ledger."""
    names = {number: outcome.value for outcome, number in OUTCOMES.items()}
    found: dict[str, list[Row]] = defaultdict(list)
    with sqlite3.connect(data / layout.LEDGER) as ledger:
        for invocation, attempt, outcome, billed_ms in ledger.execute(
            "SELECT invocation, attempt, outcome, billed_ms FROM usage ORDER BY invocation, attempt"
        ):
            found[str(uuid.UUID(bytes=invocation))].append(Row(attempt, names[outcome], billed_ms))
    return found
