"""The shelf of price books in the ledger's database: published once, never changed, read by every gateway.

A book may be replaced only while nothing was ever priced, so that a first price list can be got right.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, select

from jiffy.contract.errors import Conflict

from . import bookfile, tables
from .database import put, reading, writing
from .prices import PriceBook, PriceList


def open_shelf(engine: Engine, given: PriceList | None, waiting: Callable[[], int]) -> PriceList:
    """All books, `given` ones published. A new shelf without any gets those that are shipped. Raises Conflict."""
    with writing(engine) as connection:
        known = read_books(connection)
        if given is None and not known:
            given = bookfile.shipped()
        if given is not None:
            if not _ever_priced(connection) and not waiting():
                changed = [book.version for book in given.books if known.get(book.version, book) != book]
                connection.execute(delete(tables.price_books).where(tables.price_books.c.version.in_(changed)))
            _publish(connection, given)
        return read_list(connection)


def publish(engine: Engine, given: PriceList) -> None:
    """Add the books that are not known yet. Raises Conflict, and then adds none."""
    with writing(engine) as connection:
        _publish(connection, given)
        read_list(connection)


def read(engine: Engine) -> PriceList:
    with reading(engine) as connection:
        return read_list(connection)


def read_list(connection: Connection) -> PriceList:
    """All of them, in order."""
    return PriceList(tuple(read_books(connection).values()))


def read_books(connection: Connection) -> dict[int, PriceBook]:
    """All price books by which anything was or may be priced."""
    return {
        row.version: bookfile.parse_book(json.loads(row.document), row.currency, f"price book {row.version}")
        for row in connection.execute(select(tables.price_books))
    }


def _publish(connection: Connection, given: PriceList) -> None:
    put(connection, tables.price_books, [_row(book) for book in given.books])
    known = read_books(connection)
    for book in given.books:
        if known[book.version] != book:
            raise Conflict(
                f"price book {book.version} is published already, with other prices, and calls may have been priced by "
                "it: leave it as it is and add a new version"
            )
    other = {book.currency for book in known.values()} - {given.currency}
    if other:
        raise Conflict(f"this ledger is kept in {other.pop()}, not in {given.currency}")
    moments = [book.effective_from_ms for book in known.values()]
    for book in given.books:
        if moments.count(book.effective_from_ms) > 1:
            raise Conflict(f"price book {book.version} holds from the same moment as another one")


def _ever_priced(connection: Connection) -> bool:
    row = tables.settlement.c
    settled, rejected = connection.execute(select(row.settled, row.rejected)).one()
    return bool(settled or rejected)


def _row(book: PriceBook) -> dict[str, object]:
    return {
        "version": book.version,
        "effective_from_ms": book.effective_from_ms,
        "currency": book.currency,
        "document": json.dumps(bookfile.document(book)),
    }
