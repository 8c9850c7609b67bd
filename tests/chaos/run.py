"""One run: the fleet starts, clients call, things happen, all is healed, and the books are read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import engines
from tests.chaos import books, network
from tests.chaos import disk as disks
from tests.chaos.clients import Clients, Promised
from tests.chaos.disk import disk
from tests.chaos.fleet import Fleet
from tests.chaos.network import Network
from tests.chaos.schedule import schedule
from tests.engines import engine
from tests.topologies import sentinel

READY_S = 120.0  # on a busy machine


def troubles() -> dict[str, str]:
    """What a run may have beside processes, and why it can't be had here; "" when it can.

    hosts    each process on a host of its own: loss of packets, cuts that take callers off, too
    disk     a small one for Redis and the ledger, that becomes full
    engine   an own Docker engine for one of the invokers, that is restarted
    sentinel three servers under Sentinel in place of one Redis: their primary dies or hangs; without hosts and disk
    """
    return {
        "hosts": network.trouble(),
        "disk": disks.trouble(),
        "engine": engines.trouble(),
        "sentinel": "",
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run."""

    seed: int
    seconds: float
    calls: int = 10**9
    gateways: int = 2
    invokers: int = 3
    callers: int = 3  # of every kind
    mean_s: float = 1.0  # between two events
    with_: frozenset[str] = frozenset()  # of troubles()
    rest_s: float = 90.0  # for what is left to end

    def __str__(self) -> str:
        return (
            f"python -m tests.chaos --seed {self.seed} --minutes {self.seconds / 60:g} --gateways {self.gateways} "
            f"--invokers {self.invokers} --callers {self.callers} --every {self.mean_s:g} "
            f"--with {','.join(sorted(self.with_)) or 'nothing'}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it."""

    events: dict[str, int]
    counts: dict[str, int]
    ends: dict[str, int]  # the audit's counters of asynchronous calls
    accepted: int
    answered: int
    keyed: int
    published: int
    restarts: int  # of processes that nobody killed
    broken: list[str]


async def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Report:
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(Network()) if "hosts" in plan.with_ else None
        small = stack.enter_context(disk(folder / "disk")) if "disk" in plan.with_ else None
        docker = stack.enter_context(engine()) if "engine" in plan.with_ else None
        group = stack.enter_context(sentinel(persistent=True)) if "sentinel" in plan.with_ else None
        if group is not None:
            group.url += "?replicas=2"  # all of them: docs/guarantees.md says what fewer may lose
        fleet = Fleet(folder, plan.gateways, plan.invokers, hosts, small, docker, group=group)
        return await _run(plan, fleet, say)


async def _run(plan: Plan, fleet: Fleet, say: Callable[[str], None]) -> Report:
    await fleet.start()
    supervising = asyncio.create_task(fleet.supervise())
    promised = Promised(crashes="engine" in plan.with_)
    clients = Clients(plan.seed, fleet.urls, promised)
    events: dict[str, int] = {}
    try:
        await books.quiet(fleet.urls[0], READY_S)
        calling = asyncio.create_task(clients.run(plan.callers, plan.calls))
        await _happen(plan, fleet, calling, events, say)
        clients.ended.set()
        await asyncio.wait_for(calling, plan.rest_s)
        audit = await books.quiet(fleet.urls[0], plan.rest_s)
        broken = await books.verify(promised, audit, fleet.redis.url, fleet.data)
    finally:
        supervising.cancel()
        await fleet.stop()
    ends = {name: count for tally in audit["counters"].values() for name, count in tally.items()}
    return Report(
        events,
        dict(sorted(promised.counts.items())),
        ends,
        accepted=len(promised.accepted),
        answered=len(promised.answered),
        keyed=len(promised.keyed),
        published=len(promised.published),
        restarts=fleet.restarts,
        broken=broken,
    )


async def _happen(
    plan: Plan, fleet: Fleet, calling: asyncio.Task[None], events: dict[str, int], say: Callable[[str], None]
) -> None:
    """Every event begins at its time; returns when the last one is over, or all calls are made."""
    began = time.monotonic()
    happening: set[asyncio.Task[None]] = set()
    for event in schedule(plan.seed, fleet.targets, plan.seconds, plan.mean_s, fleet.kinds):
        await asyncio.wait({calling}, timeout=max(0.0, began + event.at_s - time.monotonic()))
        if calling.done():
            break
        say(str(event))
        name = f"{event.kind} {event.target.partition('-')[0]}"
        events[name] = events.get(name, 0) + 1
        happening.add(asyncio.create_task(fleet.happen(event)))
    else:
        await asyncio.wait({calling}, timeout=max(0.0, began + plan.seconds - time.monotonic()))
    if happening:
        await asyncio.gather(*happening)
