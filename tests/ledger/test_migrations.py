"""A ledger of the first release becomes today's: nothing is lost, prices stay, and its tables are as new."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text

from gateway.ledger import database, migrations, prices, questions, tables
from gateway.ledger.questions import By, Question
from jiffy.contract.errors import Unavailable
from tests.ledger.records import NOON_MS

BOOK = "INSERT INTO price_books VALUES (1, 0, 'USD', '0.0000166667', '0.0000002', 100)"
ROW = (
    "INSERT INTO usage VALUES (:id, 1, 1, 2, 1, 2, :outcome, 0, 1, :at, 1841, :billed, 0, 120, 128, 23000000, "
    "1800, 20, 300)"
)


@pytest.fixture
def old(database_url: str) -> Iterator[Engine]:
    """As the first release left it, with three calls."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        migrations.upgrade(connection, "", "1")
        connection.execute(text("DROP TABLE alembic_version"))  # it kept no such note
        connection.execute(text(BOOK))
        connection.execute(text("INSERT INTO functions VALUES (1, 'default', 'hello')"))
        connection.execute(text("INSERT INTO labels VALUES (1, 'http'), (2, 'host-1')"))
        for n, billed in enumerate((100, 200, 0)):
            values = {"id": uuid.UUID(int=n).bytes, "at": NOON_MS + n * 3_600_000, "billed": billed}
            connection.execute(text(ROW), values | {"outcome": 0 if billed else 5})
    yield engine
    engine.dispose()


def test_an_old_ledger_is_brought_up_to_date(old: Engine, database_url: str) -> None:
    engine = database.connect(database_url)
    total = questions.answer(engine, Question("default", By.TOTAL)).total
    assert (total.calls, total.charged, total.billed_ms) == (3, 2, 300)
    assert prices.text(total.price) == "0.00000102500125"
    for by in By:
        assert questions.answer(engine, Question("default", by)).total == total
    engine.dispose()
    database.connect(database_url).dispose()  # once more changes nothing


def test_its_tables_are_those_of_a_new_one(old: Engine, database_url: str) -> None:
    database.connect(database_url).dispose()
    with old.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_what_a_newer_release_wrote_is_left_alone(database_url: str) -> None:
    engine = database.connect(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '999'"))
    engine.dispose()
    with pytest.raises(Unavailable, match="newer release"):
        database.connect(database_url)


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(Unavailable, match=r"pg8000.*pip install 'jiffy\[postgresql\]'"):
        database.connect("postgresql+pg8000://nowhere/ledger")
