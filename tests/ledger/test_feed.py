"""The feed: Redis and its in-memory twin behave alike; and what only a real server can show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from gateway.ledger import feed as feed_module
from gateway.ledger.feed import Entry, Feed, RedisFeed
from jiffy.contract import keys
from jiffy.contract.errors import Unavailable
from tests import servers
from tests.ledger.records import MemoryFeed

pytestmark = pytest.mark.redis

Put = Callable[[bytes | None], Any]


@pytest.fixture(params=["redis", "memory"])
def feed(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        twin = MemoryFeed()
        return twin, twin.put_raw
    url = request.getfixturevalue("redis_url")
    client = Redis.from_url(url)
    real = RedisFeed(url)
    request.addfinalizer(real.close)
    request.addfinalizer(client.close)
    return real, lambda data: client.xadd(keys.USAGE, {"x": b"y"} if data is None else {"u": data})


def _data(entries: list[Entry]) -> list[bytes | None]:
    return [entry.data for entry in entries]


def test_it_reads_the_oldest_and_keeps_them_until_told(feed: tuple[Feed, Put]) -> None:
    reader, put = feed
    for n in range(5):
        put(b"%d" % n)
    assert _data(reader.read(3)) == _data(reader.read(3)) == [b"0", b"1", b"2"]
    reader.forget(reader.read(3)[-1].id)
    assert _data(reader.read(9)) == [b"3", b"4"]
    assert reader.waiting() == 2


def test_forgetting_twice_takes_nothing_more(feed: tuple[Feed, Put]) -> None:
    reader, put = feed
    put(b"0")
    last = reader.read(1)[-1].id
    reader.forget(last)
    put(b"1")
    reader.forget(last)
    assert _data(reader.read(9)) == [b"1"]


def test_an_entry_without_a_record_is_told_apart(feed: tuple[Feed, Put]) -> None:
    reader, put = feed
    put(None)
    put(b"1")
    assert _data(reader.read(9)) == [None, b"1"]


def test_a_lease_has_one_holder_who_may_renew_it(feed: tuple[Feed, Put]) -> None:
    reader, _ = feed
    assert [reader.lease(who, 60_000) for who in ("a", "b", "a")] == [True, False, True]


def test_more_than_one_reply_is_read_in_order(redis_url: str) -> None:
    count = feed_module.REPLY_ENTRIES * 2 + 7
    with Redis.from_url(redis_url) as client:
        for n in range(count):
            client.xadd(keys.USAGE, {"u": b"%d" % n})
    reader = RedisFeed(redis_url)
    assert _data(reader.read(count + 1)) == [b"%d" % n for n in range(count)]
    assert len(reader.read(count - 1)) == count - 1
    reader.close()


def test_the_largest_ids_there_can_be(redis_url: str) -> None:
    largest = 2**64 - 1
    reader = RedisFeed(redis_url)
    with Redis.from_url(redis_url) as client:
        for n, entry in enumerate((f"{largest}-0", f"{largest}-{largest}")):
            client.xadd(keys.USAGE, {"u": b"%d" % n}, id=entry)
    entries = reader.read(9)
    assert entries[-1].id == f"{largest}-{largest}"
    reader.forget(entries[-1].id)
    assert reader.waiting() == 0
    reader.close()


def test_a_stream_that_began_anew_with_smaller_ids_is_not_trimmed(redis_url: str) -> None:
    reader = RedisFeed(redis_url)
    with Redis.from_url(redis_url) as client:
        client.xadd(keys.USAGE, {"u": b"old"}, id="2000-0")
        old = reader.read(9)[-1].id
        client.flushall()  # the clock of the next server is behind
        client.xadd(keys.USAGE, {"u": b"new"}, id="1000-0")
    reader.forget(old)
    assert _data(reader.read(9)) == [b"new"]
    reader.close()


def test_a_server_that_is_gone_is_unavailable_and_comes_back() -> None:
    with servers.valkey() as server:
        reader = RedisFeed(server.url)
        assert reader.read(1) == []
        server.kill()
        for ask in (lambda: reader.read(1), reader.waiting, lambda: reader.forget("1-0"), lambda: reader.lease("a", 9)):
            with pytest.raises(Unavailable):
                ask()
        server.start()
        assert reader.read(1) == []
        reader.close()


def test_a_full_queue_can_be_settled_and_so_becomes_emptier(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        last: Any = client.xadd(keys.USAGE, {"u": b"record"})
        feed = RedisFeed(redis_url)
        client.config_set("maxmemory", "1")
        try:
            assert feed.lease("gw-1", 1000)
            assert len(feed.read(10)) == 1
            feed.forget(last.decode())
        finally:
            client.config_set("maxmemory", "0")
            feed.close()
        assert client.xlen(keys.USAGE) == 0
