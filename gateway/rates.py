"""How many requests a route takes: counted in Redis, over all gateways, exactly and in one round trip.

The algorithm is GCRA: one time per counter says when all that was let in would have come at the declared rate.
Which routes have a rate: jiffy.contract.edges.Edge. Routes without one ask nobody.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway import scripts
from gateway.asgi import Scope
from gateway.cors import find
from gateway.store import translated
from jiffy.contract import keys
from jiffy.contract.access import qualified
from jiffy.contract.edges import Edge
from jiffy.contract.errors import Throttled
from jiffy.contract.httpevent import LOCAL

V6_SITE = 64  # bits of an address that one subscriber has; the others it can choose


class Counted(NamedTuple):
    """Whose requests: of one trigger of one function."""

    tenant: str
    function: str
    edge: Edge


class Rates:
    """`client` is gateway.store.Store's; `refused` counts (function, code)."""

    def __init__(self, client: Any, refused: Callable[[str, str], None]) -> None:
        self._take = client.register_script(scripts.TAKE)
        self._refused = refused

    async def take(self, counted: Counted, scope: Scope) -> None:
        """Count one request. Raises Throttled with the time after which the next will do, and Unavailable."""
        edge = counted.edge
        who = client(scope) if edge.rate_per == "client" else ""
        interval_us = 1_000_000 / edge.rate_per_s
        with translated():
            wait_us = int(
                await self._take(
                    keys=[keys.rate(counted.tenant, counted.function, edge.name, who)],
                    args=[round(interval_us), round(interval_us * edge.burst)],
                )
            )
        if wait_us > 0:
            self._refused(qualified(counted.tenant, counted.function), Throttled.code)
            whose = "this client" if who else "this route"
            text = f"{whose} may send {edge.rate_per_s:g} requests a second"
            raise Throttled(text, retry_after_s=math.ceil(wait_us / 1000) / 1000)


def client(scope: Scope) -> str:
    """Who asks: the address that spoke to us, or, where that is a proxy on this host, the one that spoke to it."""
    source = (scope.get("client") or ("",))[0]
    if source in LOCAL:
        source = find(scope["headers"], b"x-forwarded-for").decode("latin-1").rpartition(",")[2].strip() or source
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or ipaddress.ip_network((int(address), V6_SITE), strict=False).network_address
    return address.compressed
