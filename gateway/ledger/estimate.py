"""What calls will cost: of figures that someone imagines, or of those that a function's last calls had. Pure; exact."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from jiffy.contract import meter
from jiffy.contract.messages import Outcome

from . import month, prices
from .lines import Sum, ms_text
from .month import Due, Use
from .prices import PriceBook

MILLION = 1_000_000
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Load:
    """A month of equal calls."""

    calls: int
    duration_us: int
    memory_mb: int
    runtime: str = ""
    cold_calls: int = 0
    init_us: int = 0  # of a cold one


def of_load(load: Load, tenant: str, book: PriceBook) -> dict[str, Any]:
    """What a month of it costs under a book, free tier and volume tiers included."""
    warm_ms = meter.billed_ms(load.duration_us, Outcome.OK, book.tariff)
    cold_ms = meter.billed_ms(load.duration_us, Outcome.OK, book.tariff, load.init_us)
    mb_ms = load.memory_mb * (warm_ms * (load.calls - load.cold_calls) + cold_ms * load.cold_calls)
    return {"billed_ms": warm_ms, "cold_billed_ms": cold_ms} | _document(
        month.due(tenant, [Use(book, load.runtime, load.calls, mb_ms)]), mb_ms, book
    )


def of_function(seen: Sum, memory_mb: int, then_mb: int, tenant: str, runtime: str, book: PriceBook) -> dict[str, Any]:
    """What a million calls like those `seen` at `memory_mb` will cost at `then_mb`: their mean, at list price."""
    billed_ms = Decimal(seen.billed_ms) / seen.charged
    mb_ms = round(billed_ms * then_mb * MILLION)
    return {
        "calls_seen": seen.charged,  # failed ones too: they are billed
        "mean_duration_ms": ms_text((seen.billed_ms * 1000 - seen.rounding_us) // seen.charged),
        "mean_billed_ms": f"{billed_ms:.3f}",
        "memory_mb": then_mb,
        "memory_mb_seen": memory_mb,
        "per_million": prices.text(book.price(mb_ms, MILLION, tenant, runtime)),
        "currency": book.currency,
        "price_book": book.version,
    }


def of_kept(instances: int, memory_mb: int, tenant: str, runtime: str, book: PriceBook) -> dict[str, Any]:
    """What it costs for a day to keep so many instances ready on one host."""
    price = book.rates_for(tenant, runtime).provisioned_price(instances * memory_mb * DAY_MS)
    return {"min_instances": instances, "per_host_and_day": prices.text(price), "currency": book.currency}


def _document(due: Due, mb_ms: int, book: PriceBook) -> dict[str, Any]:
    return {
        "gb_seconds": prices.gb_seconds_text(mb_ms),
        "list_price": prices.text(due.list_price),
        "free": prices.text(due.free_mb_ms_price + due.free_calls_price),
        "volume": prices.text(due.volume_price),
        "total": prices.text(due.total),
        "currency": book.currency,
        "price_book": book.version,
    }
