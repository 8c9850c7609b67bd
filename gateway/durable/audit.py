"""Do the books balance? Every total of asynchronous calls and of usage records, counted anew and held against the
counters that were kept in the very steps that moved them. Whole numbers only; nothing is changed.

    sums     of one moment in Redis, between two equal readings of the ledger
    places   every call of the backlog is where the backlog says, and nowhere else: read entry by entry, so it is only
             judged when nothing moved meanwhile (else `found` is None: ask again in a quieter moment)

The counters: docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

TRIES = 20  # until the ledger stands still around one look at Redis


class Count(Protocol):
    """What the ledger has."""

    @property
    def settled(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def doubles(self) -> int: ...


class Books(Protocol):
    """The ledger."""

    async def settle_now(self) -> int: ...

    async def count(self) -> Count: ...


class Sums(NamedTuple):
    """What Redis has, of one moment."""

    tallies: Mapping[str, Mapping[str, int]]  # tenant → counters
    backlogs: Mapping[str, int]  # tenant → calls
    dead: Mapping[str, tuple[int, int, int]]  # tenant → letters by time, letters, their calls
    later: tuple[int, int]  # by time, calls
    deliveries: tuple[int, int]  # by time, items
    metered: int
    unsettled: int


class Places(NamedTuple):
    """What is where, of a tenant."""

    misplaced: int  # calls that the backlog has elsewhere, or calls of which it knows nothing
    missing: int  # calls that the backlog has, and that are nowhere
    payload_bytes: int


class Kept(Protocol):
    """What counts in Redis; `audit_store.AuditStore` is one. Both raise Unavailable."""

    async def sums(self) -> Sums: ...

    async def places(self) -> Mapping[str, Places]: ...


@dataclass(frozen=True, slots=True)
class Check:
    """One equation. `found` None: too much moved to say."""

    name: str
    tenant: str  # "": of the whole platform
    expected: int
    found: int | None

    @property
    def balanced(self) -> bool:
        return self.found is None or self.found == self.expected


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found."""

    checks: tuple[Check, ...]
    tallies: Mapping[str, Mapping[str, int]]

    @property
    def balanced(self) -> bool:
        return all(check.balanced for check in self.checks)


async def audit(kept: Kept, books: Books) -> Audit:
    """Raises Unavailable."""
    for _ in range(TRIES):
        await books.settle_now()
        before = await books.count()
        sums = await kept.sums()
        if await books.count() == before:
            break
    places = await kept.places()
    now = await kept.sums()
    quiet = now[:5] == sums[:5]  # but for usage records, which are none of this
    checks = [*_platform(sums, before)]
    for tenant in sorted(sums.tallies):
        checks += _tenant(tenant, sums)
        where = places.get(tenant, Places(0, 0, 0))
        held = sums.tallies[tenant].get("bytes", 0)
        checks += [
            Check("calls that are not where the backlog says", tenant, 0, where.misplaced if quiet else None),
            Check("calls of the backlog that are nowhere", tenant, 0, where.missing if quiet else None),
            Check("bytes of payload that wait", tenant, held, where.payload_bytes if quiet else None),
        ]
    return Audit(tuple(checks), sums.tallies)


def _platform(sums: Sums, ledger: Count) -> list[Check]:
    destined = sum(t.get("destined", 0) + t.get("redelivered", 0) for t in sums.tallies.values())
    told = sum(t.get("delivered", 0) + t.get("undelivered", 0) for t in sums.tallies.values())
    return [
        Check(
            *("usage records written = settled + put aside + still to be settled", ""),
            *(sums.metered, ledger.settled + ledger.rejected + sums.unsettled),
        ),
        Check("rows of the ledger", "", ledger.settled, ledger.rows),
        Check("attempts that are in the ledger twice", "", 0, ledger.doubles),
        Check("calls that wait for their time", "", *sums.later),
        Check("deliveries = made + dead + waiting", "", destined, told + sums.deliveries[0]),
        Check("deliveries that wait", "", *sums.deliveries),
    ]


def _tenant(tenant: str, sums: Sums) -> list[Check]:
    def counted(*names: str) -> int:
        return sum(sums.tallies[tenant].get(name, 0) for name in names)

    by_time, letters, calls = sums.dead[tenant]
    ended = counted("done", "dead", "cancelled")
    gone = counted("replayed", "redelivered", "purged", "dropped")
    return [
        Check(
            *("calls accepted and replayed = done + dead + cancelled + queued or running", tenant),
            *(counted("accepted", "replayed"), ended + sums.backlogs[tenant]),
        ),
        Check(
            "dead letters = died - replayed - purged - dropped", tenant, counted("dead", "undelivered") - gone, by_time
        ),
        Check("dead letters that can be read", tenant, by_time, letters),
        Check("dead letters whose call is kept", tenant, by_time, calls),
    ]
