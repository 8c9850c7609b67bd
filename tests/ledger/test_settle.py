"""Every usage record is settled exactly once: whatever crashes, whoever settles, whatever Redis has lived through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
from redis import Redis
from sqlalchemy import Engine, event, func, select

from gateway.ledger import bookfile, database, shelf, tables
from gateway.ledger.feed import Entry, Feed, RedisFeed
from gateway.ledger.settle import STEP_ROWS, Settler
from jiffy.contract import keys, wire
from jiffy.contract.errors import Unavailable
from jiffy.contract.messages import Outcome, Usage
from tests.ledger.records import NOON_MS, meter_into, record, waiting

pytestmark = pytest.mark.redis


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    one = database.connect(database_url)
    shelf.publish(one, bookfile.shipped())
    yield one
    one.dispose()


@pytest.fixture
def feed(redis_url: str) -> Iterator[RedisFeed]:
    one = RedisFeed(redis_url)
    yield one
    one.close()


def _settler(engine: Engine, feed: Feed) -> Settler:
    return Settler(engine, feed, bookfile.shipped(), lambda: NOON_MS)


def _settle(settler: Settler) -> None:
    while settler.step().read:
        pass


def _billed(engine: Engine) -> tuple[int, int]:
    """How many attempts, and their billed time."""
    with database.reading(engine) as connection:
        count, billed = connection.execute(select(func.count(), func.sum(tables.usage.c.billed_ms))).one()
    return count, int(billed or 0)


def _rejected(engine: Engine) -> list[tuple[str, bytes]]:
    with database.reading(engine) as connection:
        rows = connection.execute(select(tables.rejected.c.reason, tables.rejected.c.content))
        return [(row.reason, bytes(row.content)) for row in rows]


def test_records_are_settled_once_and_leave_the_stream(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    meter_into(redis_url, *(record() for _ in range(10)))
    settler = _settler(engine, feed)
    assert settler.step() == (10, 10, 0, 0)
    assert settler.step() == (0, 0, 0, 0)
    assert _billed(engine) == (10, 1000) and waiting(redis_url) == 0


def test_a_backlog_is_caught_up_in_bounded_steps(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    meter_into(redis_url, *(record() for _ in range(STEP_ROWS + 3)))
    settler = _settler(engine, feed)
    assert [settler.step().settled for _ in range(3)] == [STEP_ROWS, 3, 0]


def test_attempts_of_one_invocation_are_rows_of_their_own(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    first = record()
    meter_into(redis_url, first, first._replace(attempt=2), first)
    assert _settler(engine, feed).step() == (3, 2, 1, 0)
    assert _billed(engine) == (2, 200)


def test_what_is_not_billable_is_stored_without_billed_time(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    free = [record(outcome=o)._replace(billed_ms=100) for o in (Outcome.PLATFORM, Outcome.THROTTLED)]
    meter_into(redis_url, *free, record(outcome=Outcome.CRASH))
    _settle(_settler(engine, feed))
    assert _billed(engine) == (3, 100)


class Crash(Exception):
    pass


class CrashingFeed:
    """The seam, with a crash at one of its steps."""

    def __init__(self, inner: Feed, at: str) -> None:
        self._inner, self._at = inner, at

    def read(self, count: int) -> list[Entry]:
        entries = self._inner.read(count)
        self._crash("read")
        return entries

    def forget(self, last: str) -> None:
        self._crash("before forget")
        self._inner.forget(last)
        self._crash("after forget")

    def _crash(self, here: str) -> None:
        if here == self._at:
            raise Crash(here)

    def waiting(self) -> int:
        return self._inner.waiting()

    def lease(self, holder: str, ttl_ms: int) -> bool:
        return self._inner.lease(holder, ttl_ms)

    def close(self) -> None:
        self._inner.close()


@contextmanager
def _crashing_before_commit(engine: Engine) -> Iterator[None]:
    def crash(_connection: object) -> None:
        raise Crash("before commit")

    event.listen(engine, "commit", crash)
    yield
    event.remove(engine, "commit", crash)


@pytest.mark.parametrize("at", ["read", "before commit", "before forget", "after forget"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    engine: Engine, feed: RedisFeed, redis_url: str, at: str
) -> None:
    meter_into(redis_url, *(record(f"f{n % 3}", outcome=Outcome.ERROR) for n in range(20)))
    with Redis.from_url(redis_url) as client:
        client.xadd(keys.USAGE, {"u": b"unreadable"})
    if at == "before commit":
        with _crashing_before_commit(engine), pytest.raises(Crash):
            _settler(engine, feed).step()
    else:
        with pytest.raises(Crash):
            _settler(engine, CrashingFeed(feed, at)).step()
    meter_into(redis_url, record("f4"))
    _settle(_settler(engine, feed))
    assert _billed(engine) == (21, 2100) and len(_rejected(engine)) == 1
    assert waiting(redis_url) == 0


def test_the_same_settler_goes_on_after_a_failed_commit(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    """The names it had given numbers to were rolled back with the rest."""
    settler = _settler(engine, feed)
    meter_into(redis_url, record("first"), record("second"))
    with _crashing_before_commit(engine), pytest.raises(Crash):
        settler.step()
    meter_into(redis_url, record("third"))
    _settle(settler)
    with database.reading(engine) as connection:
        query = select(tables.functions.c.name).join(tables.usage, tables.usage.c.function == tables.functions.c.id)
        assert set(connection.scalars(query)) == {"first", "second", "third"}


def test_settlers_at_once_share_the_work_without_doubling_it(engine: Engine, database_url: str, redis_url: str) -> None:
    meter_into(redis_url, *(record(f"f{n % 7}") for n in range(3 * STEP_ROWS)))
    start = threading.Barrier(3)
    steps = []

    def settle() -> None:
        own, source = database.connect(database_url), RedisFeed(redis_url)
        settler = _settler(own, source)
        start.wait()
        while (step := settler.step()).read:
            steps.append(step)
        own.dispose()
        source.close()

    threads = [threading.Thread(target=settle) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(step.settled for step in steps) == 3 * STEP_ROWS
    assert _billed(engine) == (3 * STEP_ROWS, 300 * STEP_ROWS) and waiting(redis_url) == 0


def test_a_redis_that_was_emptied_and_whose_clock_went_back_loses_nothing(
    engine: Engine, feed: RedisFeed, redis_url: str
) -> None:
    settler = _settler(engine, feed)
    with Redis.from_url(redis_url) as client:
        client.xadd(keys.USAGE, {"u": wire.pack(record())}, id="5000-7")
        _settle(settler)
        client.flushall()
        client.xadd(keys.USAGE, {"u": wire.pack(record())}, id="10-0")
    _settle(settler)
    assert _billed(engine) == (2, 200) and waiting(redis_url) == 0


def test_a_redis_restored_from_an_older_state_doubles_nothing(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    old = [record() for _ in range(5)]
    meter_into(redis_url, *old)
    _settle(_settler(engine, feed))
    meter_into(redis_url, *old, record())
    assert _settler(engine, feed).step() == (6, 1, 5, 0)


def _packed(**changed: object) -> bytes:
    return bytes(msgpack.packb(tuple((record()._asdict() | changed).values())))


POISON = {
    "not msgpack": b"\xc1",
    "empty": b"",
    "a number": msgpack.packb(7),
    "a map": msgpack.packb({"a": 1}),
    "too short": msgpack.packb(tuple(record())[:5]),
    "nested to death": b"\x91" * 5000,
    "broken text": _packed(function=b"\xff"),
    "no uuid": _packed(invocation="17"),
    "uuid with braces": _packed(invocation="{01a20c9e-c3e9-7010-bf28-91df97952710}"),
    "unknown outcome": _packed(outcome="fine"),
    "outcome of a wrong type": _packed(outcome=3),
    "cold of a wrong type": _packed(cold=1),
    "a number that is a float": _packed(billed_ms=100.0),
    "a number that is a truth": _packed(bytes_in=True),
    "a number that is missing": _packed(cpu_us=None),
    "negative": _packed(billed_ms=-100),
    "negative duration": _packed(duration_us=-1),
    "beyond 64 bits": _packed(bytes_out=2**64 - 1),
    "beyond belief": _packed(memory_mb=2**31),
    "beyond the calendar": _packed(started_ms=2**62),
    "a NUL in a name": _packed(trigger="http\0"),
    "an endless name": _packed(function="f" * 10_000),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_a_record_that_cannot_be_read_is_put_aside_and_blocks_nothing(
    engine: Engine, feed: RedisFeed, redis_url: str, poison: bytes
) -> None:
    meter_into(redis_url, record())
    with Redis.from_url(redis_url) as client:
        client.xadd(keys.USAGE, {"u": poison})
    meter_into(redis_url, record())
    assert _settler(engine, feed).step() == (3, 2, 0, 1)
    [(reason, content)] = _rejected(engine)
    assert reason and content == poison
    assert _billed(engine) == (2, 200) and waiting(redis_url) == 0


def test_an_entry_that_holds_no_record_is_put_aside(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.xadd(keys.USAGE, {"other": b"x"})
    assert _settler(engine, feed).step() == (1, 0, 0, 1)
    assert _rejected(engine) == [("the entry has no usage record", b"")]


def test_a_record_of_a_newer_release_is_settled(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.xadd(keys.USAGE, {"u": msgpack.packb((*record(), "a field of the future"))})
    assert _settler(engine, feed).step() == (1, 1, 0, 0)


def test_the_largest_values_can_be_stored_and_summed(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    largest = record(duration_us=2**42, memory_mb=2**20, started_ms=2**47, revision=2**31 - 1)
    largest = largest._replace(max_memory_bytes=2**42 - 1, bytes_in=2**42 - 1, billed_ms=2**31 - 1)
    meter_into(redis_url, *(largest._replace(attempt=n) for n in (1, 2, 2**31 - 1)))
    _settle(_settler(engine, feed))
    with database.reading(engine) as connection:
        total = connection.scalar(select(func.sum(tables.usage.c.memory_mb * tables.usage.c.billed_ms)))
    assert total == 3 * 2**20 * (2**31 - 1)


def test_progress_is_on_record(engine: Engine, feed: RedisFeed, redis_url: str) -> None:
    one = record()
    meter_into(redis_url, one, one)
    with Redis.from_url(redis_url) as client:
        last = client.xadd(keys.USAGE, {"u": b"?"})
    _settle(_settler(engine, feed))
    with database.reading(engine) as connection:
        row = connection.execute(select(tables.settlement)).one()
    assert (row.position, row.settled, row.repeated, row.rejected) == (last.decode(), 1, 1, 1)


def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/l.sqlite3", "nonsense", "oracle+none://x"):
        with pytest.raises(Unavailable):
            database.connect(url)


def test_every_outcome_has_a_number_of_its_own() -> None:
    assert set(tables.OUTCOMES) == set(Outcome)
    assert len(set(tables.OUTCOMES.values())) == len(Outcome)


def test_rows_stay_small(tmp_path: Path, redis_url: str, feed: RedisFeed) -> None:
    path = tmp_path / "ledger.sqlite3"
    engine = database.connect(f"sqlite:///{path}")
    shelf.publish(engine, bookfile.shipped())
    usages: list[Usage] = [record(f"f{n % 5}", started_ms=NOON_MS + n) for n in range(10_000)]
    meter_into(redis_url, *usages)
    _settle(_settler(engine, feed))
    engine.dispose()  # the last connection writes the journal back
    assert path.stat().st_size / len(usages) <= 150
