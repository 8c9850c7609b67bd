"""Which invoker runs a call? Rendezvous hashing with bounded load, over what heartbeats say. Pure.

Every function has its own order of preference over the invokers, the same in every gateway, so its warm instances are
found without asking; when an invoker comes or goes only the functions that prefer it move. A call goes to the first
invoker in that order whose load is below its bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from jiffy.contract import limits
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Heartbeat
from jiffy.contract.meter import Tariff

OVERLOAD = 1.25  # how far above its fair share an invoker may be: the paper's c; warmth against evenness
NEVER_LOADED = 16  # calls; spreading fewer than this would only make cold starts
ORDERS_MAX = 100_000  # cached orders of preference; above it they are computed anew


@dataclass(frozen=True, slots=True)
class Host:
    """A live invoker: what it can take, and what it has to do (running and waiting calls)."""

    invoker: str
    capacity: int
    load: int
    network: bool


def live(beats: Iterable[Heartbeat], now_ms: int) -> tuple[Host, ...]:
    """Those that were heard of lately and take new calls."""
    oldest = now_ms - int(limits.SILENT_AFTER_S * 1000)
    return tuple(
        Host(beat.invoker, max(1, beat.instances_max), beat.running + beat.waiting, beat.network)
        for beat in sorted(beats)
        if beat.at_ms >= oldest and not beat.draining
    )


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
        self._hosts: dict[bool, tuple[str, ...]] = {False: (), True: ()}  # needs a network? → invokers
        self._capacities: dict[str, int] = {}
        self._others: dict[str, int] = {}  # load less our own calls, at the last heartbeat
        self._ours: dict[str, int] = {}
        self._orders: dict[tuple[str, str, bool], tuple[str, ...]] = {}

    def set_tariff(self, tariff: Tariff) -> None:
        """How the time of calls that are accepted from now on becomes billed time."""
        self.tariff = tariff

    @property
    def invokers(self) -> tuple[str, ...]:
        return self._hosts[False]

    def update(self, hosts: Sequence[Host]) -> None:
        """Take in what the last heartbeats say."""
        known = {False: tuple(h.invoker for h in hosts), True: tuple(h.invoker for h in hosts if h.network)}
        if known != self._hosts:
            self._hosts = known
            self._orders.clear()
        self._capacities = {h.invoker: h.capacity for h in hosts}
        self._others = {h.invoker: max(0, h.load - self._ours.get(h.invoker, 0)) for h in hosts}
        self._ours = {i: n for i, n in self._ours.items() if n or i in self._capacities}

    def place(self, tenant: str, function: str, network: bool = False) -> str:
        """The invoker for one call; `begun` and `ended` tell what becomes of it. Raises Unavailable."""
        hosts = self._hosts[network]
        if len(hosts) < 2:
            if hosts:
                return hosts[0]
            if network and self._hosts[False]:
                raise Unavailable(
                    f"{function} has network = true, and no host here can give it one: only Docker's sandboxes have a "
                    "network (jiffy up --sandbox docker)",
                    retry_after_s=limits.SILENT_AFTER_S,
                )
            raise Unavailable("no invoker is alive", retry_after_s=limits.SILENT_AFTER_S)
        key = (tenant, function, network)
        preferred = self._orders.get(key)
        if preferred is None:
            if len(self._orders) >= ORDERS_MAX:
                self._orders.clear()
            preferred = self._orders[key] = order(f"{tenant}\0{function}", hosts)
        ours, others = self._ours, self._others
        return choose(preferred, {i: others[i] + ours.get(i, 0) for i in preferred}, self._capacities)

    def begun(self, invoker: str) -> None:
        self._ours[invoker] = self._ours.get(invoker, 0) + 1

    def ended(self, invoker: str) -> None:
        self._ours[invoker] = max(0, self._ours.get(invoker, 0) - 1)
