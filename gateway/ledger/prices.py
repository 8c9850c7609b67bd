"""Price books: what a GB-second, a call and an instance kept ready cost, from when on, and for whom. Pure; exact.

How much was *used* is settled in jiffy.contract.meter; this module only multiplies. Money is a whole number of the
smallest unit that any amount can need, so the sum of the rows equals the total to the last digit, however they are
grouped. What a month's free tier and volume tiers take off that sum: month.py. Books as TOML: bookfile.py.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NewType

from jiffy.contract.errors import SpecError
from jiffy.contract.meter import Tariff

Money = NewType("Money", int)  # in 10^-DIGITS of the currency

# One MB·ms is 1/1,024,000 GB-second: 13 decimals. A rate may then have 17 more, far beyond any price list.
DIGITS = 30
RATE_DIGITS = 17
MB_MS_PER_GB_S = 1024 * 1000
GB_S_DIGITS = 13


@dataclass(frozen=True, slots=True)
class Tier:
    """What a GB-second costs beyond so many of them in a month."""

    above_mb_ms: int
    per_gb_second: Decimal


@dataclass(frozen=True, slots=True)
class Rates:
    """What one tenant pays for one runtime. Amounts are in the book's currency."""

    per_gb_second: Decimal
    per_call: Decimal
    tiers: tuple[Tier, ...] = ()  # by rising threshold
    per_provisioned_gb_second: Decimal = Decimal(0)  # of instances kept ready, called or not
    mb_ms_units: int = field(init=False, repr=False, compare=False)  # the two prices in 10^-DIGITS
    call_units: int = field(init=False, repr=False, compare=False)
    provisioned_units: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mb_ms_units", per_mb_ms(self.per_gb_second))
        object.__setattr__(self, "call_units", units(self.per_call))
        object.__setattr__(self, "provisioned_units", per_mb_ms(self.per_provisioned_gb_second))

    def price(self, mb_ms: int, calls: int) -> Money:
        """List price of `calls` charged attempts that were billed `mb_ms` MB·ms altogether. Linear: it may be summed.

        Tiers are not in it: they are a matter of a whole month.
        """
        return Money(mb_ms * self.mb_ms_units + calls * self.call_units)

    def provisioned_price(self, mb_ms: int) -> Money:
        """List price of instances that were kept ready for `mb_ms` MB·ms altogether; their calls are priced as any."""
        return Money(mb_ms * self.provisioned_units)


@dataclass(frozen=True, slots=True)
class Special:
    """What a runtime or a tenant has in place of everyone's; None: the same."""

    per_gb_second: Decimal | None = None
    per_call: Decimal | None = None
    tiers: tuple[Tier, ...] | None = None
    free_mb_ms: int | None = None  # tenants only
    free_calls: int | None = None
    per_provisioned_gb_second: Decimal | None = None

    def over(self, rates: Rates) -> Rates:
        """Tiers that were written beside another price of a GB-second do not hold beside this one."""
        tiers = rates.tiers if self.tiers is None and self.per_gb_second is None else self.tiers or ()
        return Rates(
            per_gb_second=rates.per_gb_second if self.per_gb_second is None else self.per_gb_second,
            per_call=rates.per_call if self.per_call is None else self.per_call,
            tiers=tiers,
            per_provisioned_gb_second=(
                rates.per_provisioned_gb_second
                if self.per_provisioned_gb_second is None
                else self.per_provisioned_gb_second
            ),
        )


@dataclass(frozen=True, slots=True)
class PriceBook:
    """One published price list."""

    version: int  # 1, 2, 3 …
    effective_from_ms: int  # epoch
    currency: str  # ISO 4217
    rates: Rates
    step_ms: int
    minimum_ms: int = 0
    bill_init: bool = False
    free_mb_ms: int = 0  # of each tenant and month
    free_calls: int = 0
    runtimes: Mapping[str, Special] = field(default_factory=dict)  # "python3.11", or "python" for all its versions
    tenants: Mapping[str, Special] = field(default_factory=dict)
    name: str = ""

    @property
    def tariff(self) -> Tariff:
        return Tariff(self.version, self.step_ms, self.minimum_ms, self.bill_init)

    def rates_for(self, tenant: str = "", runtime: str = "") -> Rates:
        """A tenant's own prices go before those of a runtime, and those before everyone's."""
        rates = self.rates
        if self.runtimes:
            special = self.runtimes.get(runtime) or self.runtimes.get(runtime.rstrip("0123456789."))
            rates = special.over(rates) if special else rates
        own = self.tenants.get(tenant)
        return own.over(rates) if own else rates

    def free_for(self, tenant: str) -> tuple[int, int]:
        """(MB·ms, calls) that cost `tenant` nothing in a month."""
        own = self.tenants.get(tenant, _AS_EVERYONE)
        return (
            self.free_mb_ms if own.free_mb_ms is None else own.free_mb_ms,
            self.free_calls if own.free_calls is None else own.free_calls,
        )

    def price(self, mb_ms: int, calls: int, tenant: str = "", runtime: str = "") -> Money:
        """List price of what `tenant` used of `runtime`; see Rates.price."""
        return self.rates_for(tenant, runtime).price(mb_ms, calls)


_AS_EVERYONE = Special()


class PriceList:
    """All books known here, in order of the time from which they hold."""

    def __init__(self, books: tuple[PriceBook, ...]) -> None:
        if not books:
            raise SpecError("the price list has no book")
        self.books = tuple(sorted(books, key=lambda book: book.effective_from_ms))
        self._from = [book.effective_from_ms for book in self.books]
        self.by_version = {book.version: book for book in self.books}
        if len(self.by_version) != len(books) or len(set(self._from)) != len(books):
            raise SpecError("two price books share a version or the moment from which they hold")
        if len({book.currency for book in books}) != 1:
            raise SpecError("all price books must be in one currency: sums could not be formed")

    @property
    def currency(self) -> str:
        return self.books[0].currency

    def at(self, moment_ms: int) -> PriceBook:
        """The book in force at a moment; before the first one, the first."""
        return self.books[bisect.bisect_right(self._from, moment_ms, 1) - 1]


def text(money: int) -> str:
    """An amount as an exact decimal without needless zeros: "0.00000040833375", "0", "-1.5"."""
    return decimal_text(money, DIGITS)


def gb_seconds_text(mb_ms: int) -> str:
    """MB·ms as exact GB-seconds: "0.0125"."""
    return decimal_text(mb_ms * (10**GB_S_DIGITS // MB_MS_PER_GB_S), GB_S_DIGITS)


def units(amount: Decimal) -> int:
    """An amount in 10^-DIGITS; exact, because amounts have at most RATE_DIGITS decimals."""
    numerator, denominator = amount.as_integer_ratio()
    whole: int = numerator * 10**DIGITS // denominator
    return whole


def per_mb_ms(per_gb_second: Decimal) -> int:
    """The price of one MB·ms in 10^-DIGITS; exact for the same reason."""
    return units(per_gb_second) // MB_MS_PER_GB_S


def decimal_text(value: int, digits: int) -> str:
    whole, part = divmod(abs(value), 10**digits)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{part:0{digits}d}".rstrip("0").rstrip(".")
