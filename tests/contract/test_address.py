"""URLs of a queue: one server, Sentinel, a cluster; what they ask of whom, and what is shown of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from jiffy.contract import address, keys
from jiffy.contract.errors import Unavailable


@pytest.mark.parametrize("url", ["redis://:secret@host/0", "rediss://host", "unix:///run/valkey.sock?db=1"])
def test_one_server_is_redis_pys_matter(url: str) -> None:
    assert address.parse(url) == address.Address(url)


def test_sentinels() -> None:
    found = address.parse("redis+sentinel://me:s%40crt@a,b:1,[::1]:2/main/3?sentinel_password=other&health_check=1")
    assert found.nodes == (("a", 26379), ("b", 1), ("::1", 2))
    assert (found.server, found.service) == ("redis://me:s%40crt@a/3?health_check=1", "main")
    assert (found.username, found.password) == (None, "other"), "Sentinel's own, not the servers'"
    assert found.question == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
    assert found.primary([b"10.0.0.7", b"6379"], "a") == ("10.0.0.7", 6379)
    with pytest.raises(Unavailable, match="'main'"):
        found.primary(None, "a")


def test_a_cluster() -> None:
    found = address.parse("rediss+cluster://me:secret@a,b/shop?ssl_ca_certs=/ca.pem")
    assert found.nodes == (("a", 6379), ("b", 6379))
    assert (found.server, found.name) == ("rediss://me:secret@a/?ssl_ca_certs=%2Fca.pem", "shop")
    assert (found.username, found.password) == ("me", "secret"), "its nodes are asked as they are used"
    slot = key_slot(b"shop")
    owner, other = [b"10.0.0.7", 6379, b"id", []], [b"10.0.0.8", 6379, b"id"]
    ranges = [[0, slot - 1, other], [slot, slot, owner, other], [slot + 1, 16383, other]]
    assert found.primary(ranges, "a") == ("10.0.0.7", 6379)
    assert found.primary([[0, 16383, [b"", 7000, b"id"]]], "a") == ("a", 7000), "a node that does not know its own host"
    with pytest.raises(Unavailable, match=f"slot {slot}"):
        found.primary([[0, slot - 1, other]], "a")
    assert address.parse("redis+cluster://a").name == "jiffy"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        *(("http://a", "redis+cluster://"), ("a:6379", "redis+sentinel://"), ("redis+sentinel://a", "SERVICE")),
        *(("redis+sentinel://a/main/x", "DATABASE"), ("redis+cluster://a/shop/0", "NAME")),
        *(("redis+cluster://a/{x}", "NAME"), ("redis+cluster:///shop", "host"), ("redis+cluster://a:b/shop", "port")),
    ],
)
def test_what_is_none_is_refused_with_what_is(url: str, said: str) -> None:
    with pytest.raises(Unavailable) as refused:
        address.parse(url)
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host/0", "redis://:…@host/0"),
        ("redis://host/0", "redis://host/0"),
        ("redis+sentinel://me:a/b@c@a,b/main?sentinel_password=x&y=1", "redis+sentinel://me:…@a,b/main?sentinel_password=…&y=1"),
        ("unix:///run/q.sock?db=1&password=x", "unix:///run/q.sock?db=1&password=…"),
    ],
)  # fmt: skip
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert address.public(url) == shown


@pytest.fixture
def shared() -> Iterator[None]:
    keys.share("shop")
    yield
    keys.share("")


def test_all_names_of_a_platform_in_a_cluster_have_one_slot(shared: None) -> None:
    names = [keys.LATER, keys.USAGE, keys.DELIVERY_ITEMS, keys.FUNCTIONS_CHANGED, keys.calls("a"), keys.logs("a", "b")]
    names += [keys.once("a", "b", "{c}"), keys.logs_size("a", "b"), keys.function("a", "b")]
    assert {key_slot(name.encode()) for name in names} == {key_slot(b"shop")}
    assert all(name.startswith("jiffy:") for name in names), "they are nobody's queue: queues.OWN"
    assert (keys.LATER, keys.calls("a")) == ("jiffy:{shop}:later", "jiffy:{shop}:calls:a")
    assert keys.GROUP == "invokers"


def test_without_a_cluster_names_are_as_they_always_were(shared: None) -> None:
    keys.share("")
    assert (keys.LATER, keys.calls("a")) == ("jiffy:later", "jiffy:calls:a")
