"""Price books: what a GB-second and a call cost, from when on. Pure; exact.

How much was *used* is settled in jiffy.contract.meter; this module only multiplies. Money is a whole number of the
smallest unit that any amount can need, so the sum of the rows equals the total to the last digit, however they are
grouped. Which book priced which attempt stands on its usage row (tables.py); docs/billing.md tells it to users.
"""

from __future__ import annotations

import bisect
import datetime as dt
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import Any, NewType

from jiffy.contract.errors import PlatformError

Money = NewType("Money", int)  # in 10^-DIGITS of the currency

# One MB·ms is 1/1,024,000 GB-second: 13 decimals. A rate may then have 17 more, far beyond any price list.
DIGITS = 30
RATE_DIGITS = 17
MB_MS_PER_GB_S = 1024 * 1000
GB_S_DIGITS = 13


@dataclass(frozen=True, slots=True)
class PriceBook:
    """One published price list."""

    version: int  # 1, 2, 3 …
    effective_from_ms: int  # epoch
    currency: str  # ISO 4217
    per_gb_second: Decimal
    per_call: Decimal
    step_ms: int

    def price(self, mb_ms: int, calls: int) -> Money:
        """Price of `calls` charged attempts that were billed `mb_ms` MB·ms altogether. Linear, so it may be summed."""
        per_mb_ms = _units(self.per_gb_second) // MB_MS_PER_GB_S
        return Money(mb_ms * per_mb_ms + calls * _units(self.per_call))


class PriceList:
    """All books known here, in order of the time from which they hold."""

    def __init__(self, books: tuple[PriceBook, ...]) -> None:
        if not books:
            raise PlatformError("the price list has no book")
        self.books = tuple(sorted(books, key=lambda book: book.effective_from_ms))
        self._from = [book.effective_from_ms for book in self.books]
        if len({book.version for book in books}) != len(books) or len(set(self._from)) != len(books):
            raise PlatformError("two price books share a version or the moment from which they hold")
        if len({book.currency for book in books}) != 1:
            raise PlatformError("all price books must be in one currency: sums could not be formed")

    @property
    def currency(self) -> str:
        return self.books[0].currency

    def at(self, moment_ms: int) -> PriceBook:
        """The book in force at a moment; before the first one, the first."""
        return self.books[bisect.bisect_right(self._from, moment_ms, 1) - 1]


def shipped() -> PriceList:
    """The price list that this release carries: prices.toml beside this file."""
    return parse(resources.files(__package__).joinpath("prices.toml").read_text("utf-8"))


def parse(text: str, where: str = "prices.toml") -> PriceList:
    """The price list in TOML text. Raises PlatformError that names the key."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise PlatformError(f"{where}: not valid TOML: {exc}") from exc
    currency, tables = document.get("currency"), document.get("book")
    if not isinstance(currency, str) or len(currency) != 3:
        raise PlatformError(f'{where}: currency = {currency!r}; allowed: a three-letter code, such as "USD"')
    if not isinstance(tables, list):
        raise PlatformError(f"{where}: there is no [[book]]")
    return PriceList(tuple(_book(table, currency, f"{where}: book {n}") for n, table in enumerate(tables, 1)))


def text(money: Money) -> str:
    """An amount as an exact decimal without needless zeros: "0.00000040833375", "0"."""
    return _decimal_text(money, DIGITS)


def gb_seconds_text(mb_ms: int) -> str:
    """MB·ms as exact GB-seconds: "0.0125"."""
    return _decimal_text(mb_ms * (10**GB_S_DIGITS // MB_MS_PER_GB_S), GB_S_DIGITS)


def _book(table: Mapping[str, Any], currency: str, where: str) -> PriceBook:
    version, step_ms = table.get("version"), table.get("step_ms")
    for key, value in (("version", version), ("step_ms", step_ms)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PlatformError(f"{where}: {key} = {value!r}; allowed: a whole number from 1")
    assert isinstance(version, int) and isinstance(step_ms, int)
    return PriceBook(
        version=version,
        effective_from_ms=_moment(table.get("effective_from"), where),
        currency=currency,
        per_gb_second=_amount(table, "per_gb_second", where),
        per_call=_amount(table, "per_call", where),
        step_ms=step_ms,
    )


def _moment(value: object, where: str) -> int:
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        moment = value
    elif isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        moment = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    else:
        raise PlatformError(f"{where}: effective_from = {value!r}; allowed: a date (UTC), or a time with its offset")
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def _amount(table: Mapping[str, Any], key: str, where: str) -> Decimal:
    value = table.get(key)
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount < 0 or amount >= 10**9:
        raise PlatformError(f'{where}: {key} = {value!r}; allowed: an amount in a string, such as "0.0000002"')
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -RATE_DIGITS:
        raise PlatformError(f"{where}: {key} = {value!r}; allowed: at most {RATE_DIGITS} decimals")
    return amount


def _units(amount: Decimal) -> int:
    """An amount in 10^-DIGITS; exact, because amounts have at most RATE_DIGITS decimals."""
    numerator, denominator = amount.as_integer_ratio()
    units: int = numerator * 10**DIGITS // denominator
    return units


def _decimal_text(value: int, digits: int) -> str:
    whole, part = divmod(value, 10**digits)
    return f"{whole}.{part:0{digits}d}".rstrip("0").rstrip(".")
