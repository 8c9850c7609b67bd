"""Price books are published once: what a call was priced by never changes, whoever tries, however."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from gateway.ledger import bookfile, database, shelf
from jiffy.contract.errors import Conflict
from tests.ledger.test_prices import TWO_BOOKS

ONE_BOOK = TWO_BOOKS.rpartition("[[book]]")[0]
EDITS = [('"0.00001"', '"0.00002"'), ('per_call = "0"', 'per_call = "1"'), ("2026-11-01T12", "2026-11-01T13")]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    one = database.connect(database_url)
    yield one
    one.dispose()


def _none() -> int:
    return 0


def _price_something(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE settlement SET settled = 1"))


def test_a_new_ledger_has_the_books_that_are_shipped(engine: Engine) -> None:
    assert shelf.open_shelf(engine, None, _none).books == bookfile.shipped().books


def test_given_books_are_published_and_stay(engine: Engine) -> None:
    given = bookfile.parse(TWO_BOOKS)
    assert shelf.open_shelf(engine, given, _none).books == given.books
    assert shelf.open_shelf(engine, None, _none).books == given.books
    assert shelf.read(engine).books == given.books


def test_books_are_added_to_those_that_are_known(engine: Engine) -> None:
    shelf.publish(engine, bookfile.parse(ONE_BOOK))
    shelf.publish(engine, bookfile.parse(TWO_BOOKS))
    assert list(shelf.read(engine).by_version) == [1, 2]


@pytest.mark.parametrize(("found", "replaced"), EDITS)
def test_a_published_book_cannot_be_edited(engine: Engine, found: str, replaced: str) -> None:
    shelf.publish(engine, bookfile.parse(TWO_BOOKS))
    _price_something(engine)
    edited = bookfile.parse(TWO_BOOKS.replace(found, replaced))
    for publish in (shelf.publish, lambda engine, books: shelf.open_shelf(engine, books, _none)):
        with pytest.raises(Conflict, match="leave it as it is"):
            publish(engine, edited)
    assert shelf.read(engine).books == bookfile.parse(TWO_BOOKS).books


def test_until_something_was_priced_a_platform_may_start_with_other_prices(engine: Engine) -> None:
    shelf.open_shelf(engine, None, _none)
    edited = bookfile.parse(ONE_BOOK.replace("EUR", "USD"))
    with pytest.raises(Conflict):
        shelf.open_shelf(engine, edited, lambda: 1)  # a call waits to be priced
    assert shelf.open_shelf(engine, edited, _none).books == edited.books


def test_a_ledger_is_kept_in_one_currency(engine: Engine) -> None:
    shelf.publish(engine, bookfile.parse(TWO_BOOKS))
    other = TWO_BOOKS.replace("EUR", "USD").replace("version = 1", "version = 3").replace("version = 2", "version = 4")
    with pytest.raises(Conflict, match="kept in EUR, not in USD"):
        shelf.publish(engine, bookfile.parse(other))


def test_two_books_never_hold_from_the_same_moment(engine: Engine) -> None:
    shelf.publish(engine, bookfile.parse(ONE_BOOK))
    with pytest.raises(Conflict, match="the same moment"):
        shelf.publish(engine, bookfile.parse(ONE_BOOK.replace("version = 1", "version = 2")))
