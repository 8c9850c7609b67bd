"""What a quota is: how many calls a second, and how many at the same time, over all gateways and hosts. Pure.

The rate is counted by GCRA in Redis, exactly (scripts/reserve.lua): `burst` calls may come at once, then `rate` a
second. What runs or waits at an invoker counts as at the same time. How many instances one host gives a function or a
tenant is another matter: max_instances, and the invoker's room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.budgets import scope as scopes
from gateway.budgets.scope import checked
from jiffy.contract import checks, keys, spec
from jiffy.contract.errors import InvalidRequest, SpecError
from jiffy.contract.messages import Revision

RATE_MIN, RATE_MAX = 0.001, 1_000_000.0
CALLS_MAX = 1_000_000
_KEYS = ("rate", "burst", "concurrency", *scopes.KEYS)


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota; 0: no such limit."""

    tenant: str
    name: str
    scope: str  # scope.py
    rate: float = 0.0  # calls a second
    burst: int = 0  # calls that may come at once
    concurrency: int = 0  # calls that run or wait at the same time
    locked: bool = False  # set by an admin: only admins change or remove it

    def covers(self, revision: Revision) -> bool:
        return scopes.covers(self.scope, self.tenant, revision)

    @property
    def interval_us(self) -> int:
        """From one call to the next."""
        return max(1, round(1_000_000 / self.rate))

    @property
    def rate_key(self) -> str:
        return keys.quota_rate(self.tenant, self.name)

    @property
    def places_key(self) -> str:
        return keys.quota_places(self.tenant, self.name)

    @property
    def text(self) -> str:
        """For people: quota "busy" (function hello)"""
        return f'quota "{self.name}" ({scopes.text(self.scope)})'

    def document(self) -> dict[str, Any]:
        """As it was set."""
        limits = {"rate": self.rate, "burst": self.burst} if self.rate else {}
        places = {"concurrency": self.concurrency} if self.concurrency else {}
        return {"name": self.name} | scopes.document(self.scope) | limits | places


def parse(tenant: str, name: str, document: Any) -> Quota:
    """The quota that a JSON document describes. Raises InvalidRequest, which says what is allowed."""
    try:
        spec.check_name(name, "quota")
        if not isinstance(document, Mapping):
            raise InvalidRequest('a quota is an object, such as {"rate": 100, "concurrency": 20}')
        unknown = next((key for key in document if key not in _KEYS), None)
        if unknown is not None:
            raise InvalidRequest(f"unknown key {str(unknown)[:40]!r}; allowed: {', '.join(_KEYS)}")
        rate = checked("rate", _rate, document["rate"]) if "rate" in document else 0.0
        whole = checks.integer(1, CALLS_MAX)
        burst = checked("burst", whole, document.get("burst", max(1, round(rate))))
        concurrency = checked("concurrency", whole, document["concurrency"]) if "concurrency" in document else 0
        if not rate and not concurrency:
            raise InvalidRequest("a quota has a rate (calls a second), or a concurrency (calls at the same time)")
        if "burst" in document and not rate:
            raise InvalidRequest("burst belongs to a rate")
        return Quota(tenant, name, scopes.parse(document), rate, burst if rate else 0, concurrency)
    except SpecError as exc:
        raise InvalidRequest(exc.message) from exc


def _rate(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not RATE_MIN <= value <= RATE_MAX:
        raise ValueError(f"a number of calls a second from {RATE_MIN} to {RATE_MAX:.0f}")
    return float(value)
