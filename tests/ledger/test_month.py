"""What a month comes to: free tier and volume tiers take off exactly what they say, whatever the order of use."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import bookfile, month, months, prices
from gateway.ledger.month import Use
from gateway.ledger.prices import GB_S_DIGITS, MB_MS_PER_GB_S, PriceBook

GB_S = MB_MS_PER_GB_S
BOOKS = bookfile.parse("""
currency = "USD"
[[book]]
version = 1
effective_from = 2026-01-01
per_gb_second = "0.01"
per_call = "0.001"
free_gb_seconds = "100"
free_calls = 10
tiers = [{ above_gb_seconds = "200", per_gb_second = "0.008" }, { above_gb_seconds = "300", per_gb_second = "0.005" }]
[book.runtimes.node]
per_gb_second = "0.02"
[book.tenants.acme]
free_calls = 0
free_gb_seconds = "0"
[[book]]
version = 2
effective_from = 2026-11-15
per_gb_second = "0.1"
per_call = "0"
free_gb_seconds = "150"
""").books
FIRST, SECOND = BOOKS


def _due(*uses: tuple[PriceBook, str, int, int], tenant: str = "default") -> dict[str, str]:
    due = month.due(tenant, [Use(book, runtime, calls, gb_s * GB_S) for book, runtime, calls, gb_s in uses])
    return {
        "list": prices.text(due.list_price),
        "free": prices.text(due.free_mb_ms_price),
        "free calls": prices.text(due.free_calls_price),
        "volume": prices.text(due.volume_price),
        "total": prices.text(due.total),
    }


@pytest.mark.parametrize(
    ("calls", "gb_s", "expected"),
    [
        (0, 0, ("0", "0", "0", "0", "0")),
        (5, 60, ("0.605", "0.6", "0.005", "0", "0")),
        (20, 150, ("1.52", "1", "0.01", "0", "0.51")),
        (20, 250, ("2.52", "1", "0.01", "0.1", "1.41")),  # 50 beyond 200 at 0.002 less
        (20, 1000, ("10.02", "1", "0.01", "3.7", "5.31")),  # 100 × 0.002 + 700 × 0.005
    ],
)
def test_the_free_tier_and_the_volume_tiers(calls: int, gb_s: int, expected: tuple[str, ...]) -> None:
    assert tuple(_due((FIRST, "", calls, gb_s)).values()) == expected


def test_a_tenant_may_have_another_free_tier() -> None:
    assert _due((FIRST, "", 20, 150), tenant="acme")["total"] == "1.52"


def test_runtimes_share_one_free_tier() -> None:
    # "" comes before "node22": 60 of the 100 free ones are its, 40 are node's, at node's price
    assert _due((FIRST, "node22", 0, 90), (FIRST, "", 0, 60)) == {
        "list": "2.4",
        "free": "1.4",
        "free calls": "0",
        "volume": "0",
        "total": "1",
    }


def test_another_book_in_the_middle_of_a_month_begins_no_second_free_tier() -> None:
    # book 1 gives 100 free, book 2 gives 150 a month: of its own use 30 are still free
    assert _due((SECOND, "", 0, 80), (FIRST, "", 0, 120))["free"] == "4"  # 100 × 0.01 + 30 × 0.1


USES = st.lists(
    st.tuples(st.sampled_from(BOOKS), st.sampled_from(["", "node22"]), st.integers(0, 30), st.integers(0, 400 * GB_S)),
    max_size=6,
)


@given(USES)
def test_what_is_owed_never_depends_on_how_the_use_is_cut_up(
    uses: list[tuple[PriceBook, str, int, int]],
) -> None:
    whole: dict[tuple[int, str], Use] = {}
    for book, runtime, calls, mb_ms in uses:
        before = whole.get((book.version, runtime), Use(book, runtime, 0, 0))
        whole[book.version, runtime] = Use(book, runtime, before.charged + calls, before.mb_ms + mb_ms)
    one, other = month.due("default", whole.values()), month.due("default", [Use(*use) for use in reversed(uses)])
    assert one == other and 0 <= one.total <= one.list_price
    added = sum(use.book.price(use.mb_ms, use.charged, "default", use.runtime) for use in whole.values())
    assert one.list_price == added


def test_the_example_of_aws() -> None:
    """3 million calls of 120 ms at 1536 MB: AWS's own way to calculate, by hand."""
    book = bookfile.example("aws-lambda")
    mb_ms = 3_000_000 * 120 * 1536
    gb_s = Decimal(mb_ms) / MB_MS_PER_GB_S
    due = month.due("x", [Use(book, "", 3_000_000, mb_ms)])
    expected = (gb_s - 400_000) * Decimal("0.0000166667") + 2_000_000 * Decimal("0.0000002")
    assert Decimal(prices.text(due.total)) == expected and GB_S_DIGITS == 13


def test_months() -> None:
    assert months.text(months.parse("2026-11")) == "2026-11"
    first, beyond = months.bounds_ms(months.parse("2026-12"))
    assert (beyond - first) // 86_400_000 == 31
    assert [months.text(months.of(at)) for at in (first - 1, first, beyond - 1, beyond)] == [
        *("2026-11", "2026-12", "2026-12", "2027-01")
    ]
    for wrong in ("2026-13", "2026-1", "26-11", "2026-11-01", "", "9999-01", "2026-11\n"):
        with pytest.raises(ValueError, match="a month such as 2026-11"):
            months.parse(wrong)
