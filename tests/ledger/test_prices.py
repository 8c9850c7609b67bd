"""Price books: exact amounts, dates, and errors that say what is wrong. And: docs/billing.md calculates correctly."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.ledger import prices
from gateway.ledger.prices import Money
from jiffy.contract import limits, meter
from jiffy.contract.errors import PlatformError
from jiffy.contract.messages import Outcome

DOC = (Path(__file__).parents[2] / "docs" / "billing.md").read_text()

TWO_BOOKS = """
currency = "EUR"
[[book]]
version = 1
effective_from = 1970-01-01
per_gb_second = "0.00001"
per_call = "0.0000002"
step_ms = 100
[[book]]
version = 2
effective_from = 2026-11-01T12:00:00+01:00
per_gb_second = "0.00003"
per_call = "0"
step_ms = 100
"""


def test_a_price_has_every_digit() -> None:
    book = prices.shipped().at(0)
    assert prices.text(book.price(128 * 100, 1)) == "0.00000040833375"
    assert prices.text(book.price(1769 * 1300, 1)) == "0.000037630087880859375"
    assert prices.text(book.price(0, 0)) == "0"
    assert prices.text(book.price(10_240 * 900_000 * 10**9, 10**9)) == "150000500"


def test_gb_seconds_are_exact() -> None:
    assert prices.gb_seconds_text(1) == "0.0000009765625"
    assert prices.gb_seconds_text(1024 * 1000 * 12) == "12"


def test_the_shipped_book_rounds_as_the_meter_does() -> None:
    assert {book.step_ms for book in prices.shipped().books} == {limits.BILLING_STEP_MS}


def test_a_book_holds_from_its_moment_on() -> None:
    books = prices.parse(TWO_BOOKS)
    change_ms = 1_793_530_800_000  # 2026-11-01T11:00:00Z
    assert [books.at(at).version for at in (-1, 0, change_ms - 1, change_ms, 2**47)] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("found", "replaced", "message"),
    [
        ('"EUR"', "3", "currency = 3; allowed: a three-letter code"),
        ('"0.00003"', "0.00003", "book 2: per_gb_second = 3e-05; allowed: an amount in a string"),
        ('"0.00003"', '"-1"', "book 2: per_gb_second = '-1'"),
        ('"0.00003"', '"NaN"', "book 2: per_gb_second = 'NaN'"),
        ('"0.00003"', '"1e-18"', "at most 17 decimals"),
        ('per_call = "0"', "", "book 2: per_call = None"),
        ("2026-11-01T12:00:00+01:00", "2026-11-01T12:00:00", "effective_from"),
        ("2026-11-01T12:00:00+01:00", "1970-01-01", "share a version or the moment"),
        ("version = 2", "version = 1", "share a version or the moment"),
        ("version = 2", "version = true", "book 2: version = True; allowed: a whole number"),
        ("[[book]]", "[[bok]]", "there is no [[book]]"),
        ("currency", "currency]", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_price_list_is_named(found: str, replaced: str, message: str) -> None:
    with pytest.raises(PlatformError, match=re.escape(message)):
        prices.parse(TWO_BOOKS.replace(found, replaced))


def _rows() -> list[list[str]]:
    section = DOC.partition("## An example")[2].partition("\n## ")[0]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line][
        2:
    ]


def test_the_example_in_the_document_is_what_the_code_charges() -> None:
    *rows, total = _rows()
    book = prices.shipped().books[0]
    sums, exact_us, charged_us = Money(0), 0, 0
    for outcome, memory, duration, billed, gb_seconds, price in rows:
        duration_us = int(Decimal(duration) * 1000)
        billed_ms = meter.billed_ms(duration_us, Outcome(outcome))
        cost = book.price(int(memory) * billed_ms, int(billed_ms > 0))
        assert (str(billed_ms), prices.gb_seconds_text(int(memory) * billed_ms)) == (billed, gb_seconds)
        assert prices.text(cost) == price
        sums, exact_us = Money(sums + cost), exact_us + duration_us
        charged_us += duration_us if billed_ms else 0
    assert total[2:] == [
        f"{exact_us / 1000:.3f}",
        str(sum(int(row[3]) for row in rows)),
        format(sum(Decimal(row[4]) for row in rows).normalize(), "f"),
        prices.text(sums),
    ]
    assert f"{3200 - charged_us / 1000:.3f} ms are rounding" in DOC


def test_the_document_quotes_the_shipped_prices() -> None:
    book = prices.shipped().books[0]
    assert f"price book {book.version}, US dollars" in DOC and book.currency == "USD"
    assert f"| one GB-second of billed time | {book.per_gb_second:f} |" in DOC
    assert f"| one call | {book.per_call:f} |" in DOC
    assert f"| billed time is rounded up to | {book.step_ms} ms |" in DOC


def test_the_document_says_of_every_outcome_whether_it_is_billed() -> None:
    table = DOC.partition("| outcome | billed |")[2].partition("\n\n")[0]
    said = {}
    for line in table.splitlines()[2:]:
        names, billed = line.strip("|").split("|")
        said |= {name: billed.strip().startswith("yes") for name in re.findall(r"`(\w+)`", names)}
    assert said == {outcome.value: outcome.billable for outcome in Outcome}
