"""Which invoker runs a call? Rendezvous hashing with bounded load, over what heartbeats say. Pure.

Every function has its own order of preference over the invokers, the same in every gateway, so its warm instances are
found without asking; when an invoker comes or goes only the functions that prefer it move. A call goes to the first
invoker in that order whose load is below its bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from jiffy.contract import limits
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Heartbeat
from jiffy.contract.meter import Tariff

OVERLOAD = 1.25  # how far above its fair share an invoker may be: the paper's c; warmth against evenness
NEVER_LOADED = 16  # calls; spreading fewer than this would only make cold starts
ALL_DRAIN = "all invokers are draining; to have one take calls again: jiffy drain HOST --undo"
ORDERS_MAX = 100_000  # cached orders of preference; above it they are computed anew


@dataclass(frozen=True, slots=True)
class Host:
    """A live invoker: what it can take, and what it has to do (running and waiting calls)."""

    invoker: str
    capacity: int
    load: int
    network: bool
    store: str = ""  # which layers it has …
    registry: str = ""  # … and which it can pull
    quiet: bool = False  # it has missed a heartbeat: busy, or gone


def live(beats: Iterable[Heartbeat], now_ms: int) -> tuple[Host, ...]:
    """Those that were heard of lately and take new calls."""
    oldest, quiet = now_ms - int(limits.SILENT_AFTER_S * 1000), now_ms - int(limits.QUIET_AFTER_S * 1000)
    return tuple(
        Host(
            *(beat.invoker, max(1, beat.instances_max), beat.running + beat.waiting, beat.network),
            *(beat.store, beat.registry, beat.at_ms < quiet),
        )
        for beat in sorted(beats)
        if beat.at_ms >= oldest and not beat.draining
    )


def able(host: Host, network: bool, store: str) -> bool:
    """Can it run what needs a network, or lies in this layer store?"""
    return (host.network or not network) and store in ("", host.store, host.registry)


def order(function: str, invokers: Iterable[str]) -> tuple[str, ...]:
    """All invokers, the one that `function` prefers first."""

    def weight(invoker: str) -> bytes:
        return blake2b(f"{function}\0{invoker}".encode(), digest_size=8).digest()

    return tuple(sorted(invokers, key=weight, reverse=True))


def choose(preferred: Sequence[str], loads: Mapping[str, int], capacities: Mapping[str, int]) -> str:
    """The first of `preferred` that is below its bound: OVERLOAD times its share of all calls, this one included."""
    total, room = sum(loads[i] for i in preferred) + 1, sum(capacities[i] for i in preferred)
    for invoker in preferred:
        if loads[invoker] < max(NEVER_LOADED, OVERLOAD * total * capacities[invoker] / room):
            return invoker
    return min(preferred, key=lambda i: loads[i] / capacities[i])  # unreachable while OVERLOAD > 1; never refuse


class Placement:
    """Remembers the live invokers and counts this gateway's own calls, which heartbeats don't know yet."""

    def __init__(self) -> None:
        self.tariff: Tariff | tuple[()] = ()  # of every call that is sent from here; the ledger keeps it current
        self._draining = False
        self._live: tuple[Host, ...] = ()  # of each, what never changes; sorted
        self._able: dict[tuple[bool, str], tuple[str, ...]] = {}  # needs a network?, layer store → invokers
        self._capacities: dict[str, int] = {}
        self._others: dict[str, int] = {}  # load less our own calls, at the last heartbeat
        self._ours: dict[str, int] = {}
        self._orders: dict[tuple[str, str, bool, str], tuple[str, ...]] = {}

    def set_tariff(self, tariff: Tariff) -> None:
        """How the time of calls that are accepted from now on becomes billed time."""
        self.tariff = tariff

    @property
    def invokers(self) -> tuple[str, ...]:
        return tuple(host.invoker for host in self._live)

    def update(self, hosts: Sequence[Host], *, draining: bool = False) -> None:
        """Take in what the last heartbeats say; `draining`: there are invokers, and all of them drain."""
        self._draining = draining
        known = tuple(replace(host, capacity=0, load=0) for host in hosts)
        if known != self._live:
            self._live = known
            self._able.clear()
            self._orders.clear()
        self._capacities = {h.invoker: h.capacity for h in hosts}
        self._others = {h.invoker: max(0, h.load - self._ours.get(h.invoker, 0)) for h in hosts}
        self._ours = {i: n for i, n in self._ours.items() if n or i in self._capacities}

    def place(self, tenant: str, function: str, network: bool = False, store: str = "") -> str:
        """The invoker for one call of what needs a network, or lies in one layer store ("": in all).

        `begun` and `ended` tell what becomes of the call. Raises Unavailable.
        """
        hosts = self._able.get((network, store))
        if hosts is None:
            there = [host for host in self._live if able(host, network, store)]
            well = [host for host in there if not host.quiet] or there
            hosts = self._able[network, store] = tuple(host.invoker for host in well)
        if len(hosts) < 2:
            if hosts:
                return hosts[0]
            raise Unavailable(self._why_none(function, store), retry_after_s=limits.SILENT_AFTER_S)
        key = (tenant, function, network, store)
        preferred = self._orders.get(key)
        if preferred is None:
            if len(self._orders) >= ORDERS_MAX:
                self._orders.clear()
            preferred = self._orders[key] = order(f"{tenant}\0{function}", hosts)
        ours, others = self._ours, self._others
        return choose(preferred, {i: others[i] + ours.get(i, 0) for i in preferred}, self._capacities)

    def _why_none(self, function: str, store: str) -> str:
        if not self._live:
            return ALL_DRAIN if self._draining else "no invoker is alive"
        if not any(able(host, False, store) for host in self._live):
            return (
                f"no host that is up has the layers of {function}: it was built in another data folder, or for another "
                "registry; start a host that shares that folder (--data) or registry (--registry), or deploy it again"
            )
        return (
            f"{function} has network = true, and no host here can give it one: only Docker's sandboxes have a "
            "network (jiffy up --sandbox docker)"
        )

    def begun(self, invoker: str) -> None:
        self._ours[invoker] = self._ours.get(invoker, 0) + 1

    def ended(self, invoker: str) -> None:
        self._ours[invoker] = max(0, self._ours.get(invoker, 0) - 1)
