"""Price books as people write them (TOML) and as the ledger keeps them (JSON): one set of keys, one set of checks.

`document` and `parse_book` are each other's inverse, so a book that was stored is the book that was published.
Every error is a SpecError that names the place, the key, what was found and what is allowed.
"""

from __future__ import annotations

import datetime as dt
import difflib
import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import Any

from jiffy.contract.errors import SpecError

from .lines import moment_text
from .prices import MB_MS_PER_GB_S, RATE_DIGITS, PriceBook, PriceList, Rates, Special, Tier, gb_seconds_text

EXAMPLES = ("aws-lambda",)  # in books/, to compare with
STEP_MAX_MS = 60_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_RATES = ("per_gb_second", "per_call", "per_provisioned_gb_second", "tiers")
_FREE = ("free_gb_seconds", "free_calls")
_BOOK = (
    *("version", "name", "effective_from", *_RATES, *_FREE, "step_ms", "minimum_ms", "bill_init"),
    *("runtimes", "tenants"),
)


def shipped() -> PriceList:
    """The price list that a platform has until it is given one: prices.toml beside this file."""
    return parse(resources.files(__package__).joinpath("prices.toml").read_text("utf-8"))


def read_prices(path: Path) -> PriceList:
    """The price list in a file. Raises SpecError."""
    try:
        return parse(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise SpecError(f"can't read the prices in {path}: {exc}") from exc


def example(name: str) -> PriceBook:
    """A book of another platform's list prices, the one in force today. Raises SpecError."""
    if name not in EXAMPLES:
        raise SpecError(f"there is no price book {name[:60]!r} to compare with; there is {', '.join(EXAMPLES)}")
    path = resources.files(__package__).joinpath("books").joinpath(f"{name}.toml")
    return parse(path.read_text("utf-8"), f"{name}.toml").books[-1]


def parse(text: str, where: str = "prices.toml") -> PriceList:
    """The price list in TOML text. Raises SpecError."""
    try:
        file = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SpecError(f"{where}: not valid TOML: {exc}") from exc
    _known(file, ("currency", "book"), where)
    currency, tables = file.get("currency"), file.get("book")
    if not isinstance(currency, str) or len(currency) != 3 or not currency.isupper():
        raise SpecError(f'{where}: currency = {currency!r}; allowed: a three-letter code, such as "USD"')
    if not isinstance(tables, list):
        raise SpecError(f"{where}: there is no [[book]]")
    return PriceList(tuple(parse_book(table, currency, f"{where}: book {n}") for n, table in enumerate(tables, 1)))


def parse_book(table: object, currency: str, where: str) -> PriceBook:
    """One book's table. Raises SpecError."""
    if not isinstance(table, Mapping):
        raise SpecError(f"{where} must be a table")
    _known(table, _BOOK, where)
    base = _special({key: table[key] for key in (*_RATES, *_FREE) if key in table}, where, (*_RATES, *_FREE))
    if base.per_gb_second is None or base.per_call is None:
        raise SpecError(f"{where}: {'per_call' if base.per_gb_second is not None else 'per_gb_second'} is missing")
    return PriceBook(
        version=_integer(table, "version", where, 1, 2**31 - 1),
        name=_text(table, "name", where),
        effective_from_ms=_moment(table.get("effective_from"), where),
        currency=currency,
        rates=Rates(base.per_gb_second, base.per_call, base.tiers or (), base.per_provisioned_gb_second or Decimal(0)),
        step_ms=_integer(table, "step_ms", where, 1, STEP_MAX_MS, 100),
        minimum_ms=_integer(table, "minimum_ms", where, 0, STEP_MAX_MS, 0),
        bill_init=_boolean(table, "bill_init", where),
        free_mb_ms=base.free_mb_ms or 0,
        free_calls=base.free_calls or 0,
        runtimes=_specials(table, "runtimes", where, _RATES),
        tenants=_specials(table, "tenants", where, (*_RATES, *_FREE)),
    )


def document(book: PriceBook) -> dict[str, Any]:
    """The book as plain JSON-able values, under the keys of the TOML."""
    base = Special(
        *(book.rates.per_gb_second, book.rates.per_call, book.rates.tiers or None),
        *(book.free_mb_ms or None, book.free_calls or None, book.rates.per_provisioned_gb_second or None),
    )
    optional: dict[str, Any] = {
        "name": book.name,
        "minimum_ms": book.minimum_ms,
        "bill_init": book.bill_init,
        "runtimes": {name: _special_document(special) for name, special in book.runtimes.items()},
        "tenants": {name: _special_document(special) for name, special in book.tenants.items()},
    }
    return {
        "version": book.version,
        "effective_from": moment_text(book.effective_from_ms),
        "step_ms": book.step_ms,
        **_special_document(base),
        **{key: value for key, value in optional.items() if value},
    }


def _special_document(special: Special) -> dict[str, Any]:
    provisioned = special.per_provisioned_gb_second
    tiers = [
        {"above_gb_seconds": gb_seconds_text(tier.above_mb_ms), "per_gb_second": format(tier.per_gb_second, "f")}
        for tier in special.tiers or ()
    ]
    values = {
        "per_gb_second": None if special.per_gb_second is None else format(special.per_gb_second, "f"),
        "per_call": None if special.per_call is None else format(special.per_call, "f"),
        "per_provisioned_gb_second": None if provisioned is None else format(provisioned, "f"),
        "tiers": None if special.tiers is None else tiers,
        "free_gb_seconds": None if special.free_mb_ms is None else gb_seconds_text(special.free_mb_ms),
        "free_calls": special.free_calls,
    }
    return {key: value for key, value in values.items() if value is not None}


def _specials(table: Mapping[str, Any], key: str, where: str, allowed: tuple[str, ...]) -> dict[str, Special]:
    found = table.get(key, {})
    if not isinstance(found, Mapping):
        raise SpecError(f"{where}: {key} must be tables, such as [book.{key}.NAME]")
    return {str(name): _special(value, f"{where}: {key}.{name}", allowed) for name, value in found.items()}


def _special(table: object, where: str, allowed: tuple[str, ...]) -> Special:
    if not isinstance(table, Mapping):
        raise SpecError(f"{where} must be a table")
    known = table
    _known(known, allowed, where)

    def amount(key: str) -> Decimal | None:
        return _amount(known, key, where) if key in known else None

    free = amount("free_gb_seconds")
    return Special(
        per_gb_second=amount("per_gb_second"),
        per_call=amount("per_call"),
        per_provisioned_gb_second=amount("per_provisioned_gb_second"),
        tiers=_tiers(table["tiers"], where) if "tiers" in table else None,
        free_mb_ms=None if free is None else _mb_ms(free, "free_gb_seconds", where),
        free_calls=_integer(table, "free_calls", where, 0, 2**53) if "free_calls" in table else None,
    )


def _tiers(value: object, where: str) -> tuple[Tier, ...]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise SpecError(f"{where}: tiers must be tables, such as [[book.tiers]]")
    tiers: list[Tier] = []
    for n, table in enumerate(value, 1):
        place = f"{where}: tier {n}"
        _known(table, ("above_gb_seconds", "per_gb_second"), place)
        above = _mb_ms(_amount(table, "above_gb_seconds", place), "above_gb_seconds", place)
        if above <= (tiers[-1].above_mb_ms if tiers else 0):
            raise SpecError(f"{place}: above_gb_seconds must rise from tier to tier, beginning above 0")
        tiers.append(Tier(above, _amount(table, "per_gb_second", place)))
    return tuple(tiers)


def _mb_ms(gb_seconds: Decimal, key: str, where: str) -> int:
    numerator, denominator = gb_seconds.as_integer_ratio()
    mb_ms, rest = divmod(numerator * MB_MS_PER_GB_S, denominator)
    if rest:
        raise SpecError(
            f"{where}: {key} = {str(gb_seconds)!r}; allowed: whole MB·ms, 1/{MB_MS_PER_GB_S} of a GB-second"
        )
    return int(mb_ms)


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise SpecError(f"{where}: unknown key {key!r}{hint}; allowed: {', '.join(keys)}")


def _integer(table: Mapping[str, Any], key: str, where: str, low: int, high: int, default: int | None = None) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpecError(f"{where}: {key} = {value!r}; allowed: a whole number from {low} to {high}")
    return value


def _boolean(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise SpecError(f"{where}: {key} = {value!r}; allowed: true or false")
    return value


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str) or len(value) > 100 or not value.isprintable():
        raise SpecError(f"{where}: {key} = {str(value)[:60]!r}; allowed: a line of at most 100 characters")
    return value


def _moment(value: object, where: str) -> int:
    if isinstance(value, str):  # as in JSON
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        moment = value
    elif isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        moment = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    else:
        raise SpecError(f"{where}: effective_from = {value!r}; allowed: a date (UTC), or a time with its offset")
    return (moment - _EPOCH) // dt.timedelta(milliseconds=1)


def _amount(table: Mapping[str, Any], key: str, where: str) -> Decimal:
    value = table.get(key)
    try:
        amount = Decimal(value) if isinstance(value, str) and len(value) <= 60 else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount < 0 or amount >= 10**12:
        raise SpecError(f'{where}: {key} = {value!r}; allowed: an amount in a string, such as "0.0000002"')
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -RATE_DIGITS:
        raise SpecError(f"{where}: {key} = {value!r}; allowed: at most {RATE_DIGITS} decimals")
    return amount
