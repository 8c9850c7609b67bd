"""What one tenant owes for one month: list prices, less what is free, less what volume tiers make cheaper. Pure; exact.

The month's use is laid end to end, book by book in the order of their dates, and within a book runtime by runtime; the
free tier takes its first GB-seconds and calls, a tier what lies beyond its threshold. So the order decides which rate
is given free, never how much; and a change of books in the middle of a month begins no second free tier.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from .prices import Money, PriceBook, per_mb_ms


class Use(NamedTuple):
    """What was used under one book of one runtime."""

    book: PriceBook
    runtime: str
    charged: int  # attempts
    mb_ms: int
    provisioned_mb_ms: int = 0  # neither free nor in a tier


@dataclass(frozen=True, slots=True)
class Due:
    """The month's amounts: total = list_price − free_mb_ms_price − free_calls_price − volume_price."""

    list_price: Money
    free_mb_ms: int
    free_mb_ms_price: Money
    free_calls: int
    free_calls_price: Money
    volume_mb_ms: int  # beyond the first tier's threshold
    volume_price: Money

    @property
    def total(self) -> Money:
        return Money(self.list_price - self.free_mb_ms_price - self.free_calls_price - self.volume_price)


def due(tenant: str, uses: Iterable[Use]) -> Due:
    """Everything that `tenant` used in a month, priced."""
    used_mb_ms = used_calls = 0
    list_price = free_mb_ms = free_mb_ms_price = free_calls = free_calls_price = volume_mb_ms = volume_price = 0
    for use in sorted(uses, key=lambda one: (one.book.effective_from_ms, one.book.version, one.runtime)):
        rates, (allowed_mb_ms, allowed_calls) = use.book.rates_for(tenant, use.runtime), use.book.free_for(tenant)
        list_price += rates.price(use.mb_ms, use.charged) + rates.provisioned_price(use.provisioned_mb_ms)
        start, end = used_mb_ms, used_mb_ms + use.mb_ms
        free = max(0, min(end, allowed_mb_ms) - start)
        free_mb_ms += free
        free_mb_ms_price += free * rates.mb_ms_units
        start += free
        for tier, following in zip_longest(rates.tiers, rates.tiers[1:]):
            beyond = end if following is None else min(end, following.above_mb_ms)
            inside = max(0, beyond - max(start, tier.above_mb_ms))
            volume_mb_ms += inside
            volume_price += inside * (rates.mb_ms_units - per_mb_ms(tier.per_gb_second))
        given = max(0, min(used_calls + use.charged, allowed_calls) - used_calls)
        free_calls += given
        free_calls_price += given * rates.call_units
        used_mb_ms, used_calls = end, used_calls + use.charged
    return Due(
        *(Money(list_price), free_mb_ms, Money(free_mb_ms_price), free_calls, Money(free_calls_price)),
        *(volume_mb_ms, Money(volume_price)),
    )
