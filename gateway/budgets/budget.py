"""What a budget is: whose calls, how much, per day or month, and what happens when it is used up. Pure.

Periods are days and months in UTC, as on the bill. Amounts are list prices, before free tier and volume tiers, in
whole numbers of 10^-spending.DIGITS.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from typing import Any, NamedTuple

from gateway.budgets import scope as scopes
from gateway.budgets.scope import checked
from gateway.ledger import months
from jiffy.contract import checks, keys, spec, spending
from jiffy.contract.errors import InvalidRequest, SpecError
from jiffy.contract.messages import Revision

UNIT = 10**spending.DIGITS
DAY_MS = 86_400_000
WARN_DEFAULT = 80
_KEYS = ("limit", "per", *scopes.KEYS, "hard", "warn_at", "notify")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Period(NamedTuple):
    """A day or a month."""

    name: str  # "2026-11-24", "2026-11"
    starts_ms: int
    ends_ms: int  # exclusive

    @property
    def ends(self) -> str:
        return iso(self.ends_ms)


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget. `since_ms`: calls let in from then on are counted as they end, earlier ones by the ledger."""

    tenant: str
    name: str
    scope: str  # scope.py
    per: str  # "day", "month"
    limit: int
    hard: bool = False  # are calls refused when it is used up?
    warn_at: int = WARN_DEFAULT  # per cent
    notify: str = ""  # who is told, as a function's on_failure: "https://…", "function:NAME"
    since_ms: int = 0
    locked: bool = False  # set by an admin: only admins change or remove it

    def covers(self, revision: Revision) -> bool:
        return scopes.covers(self.scope, self.tenant, revision)

    def counters(self, period: Period) -> str:
        """The key of its counters; budgets of one scope share them."""
        return keys.spending(self.tenant, self.scope, period.name)

    @property
    def text(self) -> str:
        """For people: budget "team-x" (tag team=x, per month)"""
        return f'budget "{self.name}" ({scopes.text(self.scope)}, per {self.per})'

    def document(self) -> dict[str, Any]:
        """As it was set."""
        return (
            {"name": self.name}
            | scopes.document(self.scope)
            | {"per": self.per, "limit": amount_text(self.limit), "hard": self.hard, "warn_at": self.warn_at}
            | {"notify": self.notify}
        )


def parse(tenant: str, name: str, document: Any, since_ms: int) -> Budget:
    """The budget that a JSON document describes. Raises InvalidRequest, which says what is allowed."""
    try:
        spec.check_name(name, "budget")
        if not isinstance(document, Mapping):
            raise InvalidRequest('a budget is an object, such as {"limit": "5.00", "per": "day"}')
        unknown = next((key for key in document if key not in _KEYS), None)
        if unknown is not None:
            raise InvalidRequest(f"unknown key {str(unknown)[:40]!r}; allowed: {', '.join(_KEYS)}")
        return Budget(
            *(tenant, name, scopes.parse(document)),
            per=checked("per", checks.choice("day", "month"), document.get("per")),
            limit=parse_amount(document.get("limit")),
            hard=checked("hard", checks.boolean, document.get("hard", False)),
            warn_at=checked("warn_at", checks.integer(1, 100), document.get("warn_at", WARN_DEFAULT)),
            notify=checked("notify", checks.destination, document.get("notify", "")),
            since_ms=since_ms,
        )
    except SpecError as exc:
        raise InvalidRequest(exc.message) from exc


def parse_amount(value: Any) -> int:
    """ "5.00" in 10^-spending.DIGITS. Raises InvalidRequest."""
    allowed = f'limit must be an amount such as "5.00", above 0 and at most {spending.AMOUNT_MAX}'
    if not isinstance(value, str) or len(value) > 40:
        raise InvalidRequest(f"{allowed}, as a string, so that it stays exact")
    try:
        amount = Decimal(value)
    except InvalidOperation as exc:
        raise InvalidRequest(allowed) from exc
    if not amount.is_finite() or not Decimal(1) / UNIT <= amount <= spending.AMOUNT_MAX:
        raise InvalidRequest(allowed)
    return int((amount * UNIT).to_integral_value(ROUND_FLOOR))


def amount_text(amount: int) -> str:
    """ "5", "0.000000408334" """
    whole, part = divmod(amount, UNIT)
    return f"{whole}.{part:0{spending.DIGITS}d}".rstrip("0").rstrip(".")


def period(per: str, now_ms: int) -> Period:
    """The day or the month that holds a moment."""
    if per == "month":
        month = months.of(now_ms)
        return Period(months.text(month), *months.bounds_ms(month))
    starts = now_ms // DAY_MS * DAY_MS
    return Period(iso(starts)[:10], starts, starts + DAY_MS)


def iso(moment_ms: int) -> str:
    return (_EPOCH + dt.timedelta(milliseconds=moment_ms)).strftime("%Y-%m-%dT%H:%M:%SZ")
