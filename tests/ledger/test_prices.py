"""Price books: exact amounts, dates, and errors that say what is wrong. And: docs/billing.md calculates correctly."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.ledger import bookfile, prices
from gateway.ledger.prices import Money
from jiffy.contract import limits, meter
from jiffy.contract.errors import SpecError
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
    book = bookfile.shipped().at(0)
    assert prices.text(book.price(128 * 100, 1)) == "0.00000040833375"
    assert prices.text(book.price(1769 * 1300, 1)) == "0.000037630087880859375"
    assert prices.text(book.price(0, 0)) == "0"
    assert prices.text(book.price(10_240 * 900_000 * 10**9, 10**9)) == "150000500"


def test_gb_seconds_are_exact() -> None:
    assert prices.gb_seconds_text(1) == "0.0000009765625"
    assert prices.gb_seconds_text(1024 * 1000 * 12) == "12"


def test_the_shipped_book_rounds_as_the_meter_does() -> None:
    assert {book.step_ms for book in bookfile.shipped().books} == {limits.BILLING_STEP_MS}


def test_a_book_holds_from_its_moment_on() -> None:
    books = bookfile.parse(TWO_BOOKS)
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
        ('per_call = "0"', "", "book 2: per_call is missing"),
        ("2026-11-01T12:00:00+01:00", "2026-11-01T12:00:00", "effective_from"),
        ("2026-11-01T12:00:00+01:00", "1970-01-01", "share a version or the moment"),
        ("version = 2", "version = 1", "share a version or the moment"),
        ("version = 2", "version = true", "book 2: version = True; allowed: a whole number"),
        ("[[book]]", "[[bok]]", "unknown key 'bok' (did you mean 'book'?)"),
        ("currency", "currency]", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_price_list_is_named(found: str, replaced: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        bookfile.parse(TWO_BOOKS.replace(found, replaced))


EVERYTHING = """
currency = "USD"
[[book]]
version = 3
name = "everything"
effective_from = 2026-11-01
per_gb_second = "0.0000166667"
per_call = "0.0000002"
step_ms = 1
minimum_ms = 5
bill_init = true
free_gb_seconds = "400000"
free_calls = 1000000
[[book.tiers]]
above_gb_seconds = "6000000000"
per_gb_second = "0.000015"
[book.runtimes."python3.11"]
per_gb_second = "0.00001"
[book.runtimes.node]
per_call = "0"
[book.tenants.acme]
per_gb_second = "0.000003"
free_gb_seconds = "0"
tiers = [{ above_gb_seconds = "0.5", per_gb_second = "0.000001" }]
"""


def test_a_book_that_was_stored_is_the_book_that_was_published() -> None:
    for book in (*bookfile.parse(EVERYTHING).books, *bookfile.parse(TWO_BOOKS).books, bookfile.example("aws-lambda")):
        stored = json.loads(json.dumps(bookfile.document(book)))
        assert bookfile.parse_book(stored, book.currency, "stored") == book


def test_a_tenants_prices_go_before_a_runtimes_and_those_before_everyones() -> None:
    [book] = bookfile.parse(EVERYTHING).books

    def paid(tenant: str, runtime: str) -> tuple[str, str, int]:
        rates = book.rates_for(tenant, runtime)
        return f"{rates.per_gb_second:f}", f"{rates.per_call:f}", len(rates.tiers)

    assert paid("", "") == paid("x", "go1") == ("0.0000166667", "0.0000002", 1)
    assert paid("x", "python3.11") == ("0.00001", "0.0000002", 0)  # the tiers belong to another price
    assert paid("x", "python3.12") == ("0.0000166667", "0.0000002", 1)
    assert paid("x", "node22") == ("0.0000166667", "0", 1)
    assert paid("acme", "node22") == ("0.000003", "0", 1)
    assert book.free_for("x") == (400_000 * 1_024_000, 1_000_000)
    assert book.free_for("acme") == (0, 1_000_000)


def test_a_books_terms_make_billed_time() -> None:
    [book] = bookfile.parse(EVERYTHING).books
    assert book.tariff == meter.Tariff(3, 1, 5, True)
    assert meter.billed_ms(1_001, Outcome.OK, book.tariff) == 5
    assert meter.billed_ms(6_001, Outcome.OK, book.tariff) == 7
    assert meter.billed_ms(6_001, Outcome.OK, book.tariff, init_us=10_000) == 17
    assert meter.billed_ms(6_001, Outcome.PLATFORM, book.tariff, init_us=10_000) == 0
    assert meter.billed_ms(6_001, Outcome.OK, meter.Tariff(1, 100, 150), init_us=10**6) == 200


@pytest.mark.parametrize(
    ("found", "replaced", "message"),
    [
        ("minimum_ms", "minimum_s", "unknown key 'minimum_s' (did you mean 'minimum_ms'?)"),
        ("bill_init = true", "bill_init = 1", "book 1: bill_init = 1; allowed: true or false"),
        ("step_ms = 1", "step_ms = 0", "step_ms = 0; allowed: a whole number from 1 to 60000"),
        ('"400000"', '"0.0000000001"', "free_gb_seconds = '1E-10'; allowed: whole MB·ms"),
        ('"6000000000"', '"0"', "tier 1: above_gb_seconds must rise"),
        ("[book.runtimes.node]", "[book.runtimes.node]\nfree_calls = 1", "runtimes.node: unknown key 'free_calls'"),
        ("[book.tenants.acme]", "[[book.tenants]]", "tenants must be tables"),
        ("[[book.tiers]]", "[book.tiers]", "tiers must be tables"),
        ('name = "everything"', 'name = "a\\nb"', "allowed: a line of at most 100 characters"),
    ],
)
def test_a_mistake_anywhere_in_a_book_is_named(found: str, replaced: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        bookfile.parse(EVERYTHING.replace(found, replaced))


def _rows() -> list[list[str]]:
    section = DOC.partition("## An example")[2].partition("\n## ")[0]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line][
        2:
    ]


def test_the_example_in_the_document_is_what_the_code_charges() -> None:
    *rows, total = _rows()
    book = bookfile.shipped().books[0]
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
    billed_ms = sum(int(row[3]) for row in rows)
    assert f"{billed_ms - charged_us / 1000:.3f} ms are rounding" in DOC


def test_the_document_quotes_the_shipped_prices() -> None:
    book = bookfile.shipped().books[0]
    assert f"price book {book.version}, US dollars" in DOC and book.currency == "USD"
    assert f"| one GB-second of billed time | {book.rates.per_gb_second:f} |" in DOC
    assert f"| one call | {book.rates.per_call:f} |" in DOC
    assert f"| billed time is rounded up to | {book.step_ms} ms |" in DOC


def test_the_document_says_of_every_outcome_whether_it_is_billed() -> None:
    table = DOC.partition("| outcome | billed |")[2].partition("\n\n")[0]
    said = {}
    for line in table.splitlines()[2:]:
        names, billed = line.strip("|").split("|")
        said |= {name: billed.strip().startswith("yes") for name in re.findall(r"`(\w+)`", names)}
    assert said == {outcome.value: outcome.billable for outcome in Outcome}
