"""Files of a folder and of a bucket as a source: each change once, none lost, and nothing but what may be watched."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis

from gateway.triggers.consumer import Held
from gateway.triggers.queues import settings
from gateway.triggers.sources.base import Message, Source, SourceError
from gateway.triggers.sources.doors import Doors
from gateway.triggers.sources.files import FILES_MAX, File, FilesSource, Listing, Wanted
from gateway.triggers.trigger import Trigger, TriggerId
from jiffy.contract import keys, triggers
from tests import servers
from tests.triggers.brokers import amazon, tcp


class Place(NamedTuple):
    """Where files are: as a trigger has it, and what others do there."""

    source: str
    put: Callable[[str, bytes], Awaitable[None]]
    remove: Callable[[str], Awaitable[None]]
    lock: Callable[[str], Awaitable[None]]  # it is there, and can't be read
    url: str  # of the platform's Redis
    roots: tuple[Path, ...] = ()

    def trigger(self, **options: Any) -> Trigger:
        (table,) = triggers.check([{"name": "t", "type": "files", "source": self.source, "poll_s": 0.1} | options])
        return Trigger(TriggerId("default", "f", "t"), "files", table)

    async def opened(self, **options: Any) -> Source:
        source = Doors(self.url, self.roots).source(self.trigger(**options))
        try:
            await source.open(10)
        except SourceError:
            await source.close()
            raise
        return source


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """One that others may enter, too: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="jiffy-test-files-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody to whom files can be forbidden."""
    was = os.geteuid()
    if not was:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


@pytest.fixture(params=["folder", "bucket"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: servers.RedisServer, redis_url: str
) -> AsyncIterator[Place]:
    own = f"redis://127.0.0.1:{await tcp(redis_server)}/0"
    if request.param == "folder":
        tmp_path.chmod(0o755)

        async def put(key: str, content: bytes) -> None:
            path = tmp_path / "in" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        async def remove(key: str) -> None:
            (tmp_path / "in" / key).unlink()

        async def lock(key: str) -> None:
            (tmp_path / "in" / key).chmod(0)

        (tmp_path / "in").mkdir()
        yield Place(f"file://{tmp_path}/in", put, remove, lock, own, (tmp_path,))
        return
    server = request.getfixturevalue("amazon_url")
    bucket = f"b-{secrets.token_hex(4)}"
    async with amazon("s3", server) as client:
        await client.create_bucket(Bucket=bucket)
        await client.put_object(Bucket=bucket, Key="elsewhere/x", Body=b"not below the prefix")

        async def put_object(key: str, content: bytes) -> None:
            await client.put_object(Bucket=bucket, Key=f"in/{key}", Body=content)

        async def remove_object(key: str) -> None:
            await client.delete_object(Bucket=bucket, Key=f"in/{key}")

        async def archive(key: str) -> None:
            await client.put_object(Bucket=bucket, Key=f"in/{key}", Body=b"1", StorageClass="GLACIER")

        where = server.partition("://")[2]
        yield Place(f"s3+http://key:secret@{where}/{bucket}/in/", put_object, remove_object, archive, own)


async def take(source: Source, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await source.take(count - len(found), 0.2)
    return found


def names(messages: list[Message]) -> list[tuple[str, str]]:
    """(event, name) of each, whatever stands before the name."""
    documents = [json.loads(message.body) for message in messages]
    return sorted((one["event"], one["key"].removeprefix("in/")) for one in documents)


async def test_a_file_comes_once_and_again_only_when_it_is_another(place: Place) -> None:
    await place.put("a/cat.png", b"1")
    await place.put("dög +.png", b"22")
    source = await place.opened()
    found = await take(source, 2)
    assert names(found) == [("created", "a/cat.png"), ("created", "dög +.png")]
    await source.done(found)
    await place.put("a/cat.png", b"another")
    found = await take(source, 1)
    assert names(found) == [("created", "a/cat.png")]
    await source.done(found)
    await source.close()
    again = await place.opened()
    assert await again.take(10, 1.0) == []
    await again.close()


async def test_what_was_not_done_and_what_came_meanwhile_come_after_a_restart(place: Place) -> None:
    await place.put("a", b"1")
    source = await place.opened()
    assert [message.tries for message in await take(source, 1)] == [1]
    await source.close()
    await place.put("b", b"2")
    again = await place.opened()
    found = await take(again, 2)
    assert names(found) == [("created", "a"), ("created", "b")]
    assert {json.loads(m.body)["key"][-1]: m.tries for m in found} == {"a": 2, "b": 1}
    await again.close()


async def test_one_that_vanishes_is_told_where_that_is_wanted(place: Place) -> None:
    await place.put("a", b"1")
    source = await place.opened(events=["removed"])
    assert await source.take(10, 1.0) == []  # nobody asked for what is created
    await place.remove("a")
    found = await take(source, 1)
    assert names(found) == [("removed", "a")]
    await source.done(found)
    await source.close()


async def test_only_new_ones_where_that_is_wanted(place: Place) -> None:
    await place.put("old", b"1")
    source = await place.opened(start="newest")
    await place.put("new", b"2")
    found = await take(source, 1)
    assert names(found) == [("created", "new")]
    await source.close()


async def test_the_function_gets_s3s_notification_and_the_bytes(place: Place) -> None:
    await place.put("a b.bin", bytes(range(256)))
    await place.put("large", b"x" * (3 * 1024 * 1024 + 1))
    trigger = place.trigger(content=True)
    source = await place.opened(content=True)
    small, large = sorted(await take(source, 2), key=lambda message: message.id)
    shape = settings(trigger).shape
    (record,) = json.loads(shape.event([Held(small, 1)], 0))["Records"]
    assert (record["eventSource"], record["eventName"]) == ("aws:s3", "ObjectCreated:Put")
    assert record["s3"]["object"]["key"].endswith("a+b.bin") and record["s3"]["object"]["size"] == 256
    assert base64.b64decode(record["s3"]["object"]["content"]) == bytes(range(256))
    (record,) = json.loads(shape.event([Held(large, 1)], 0))["Records"]
    assert "content" not in record["s3"]["object"]
    assert shape.seen(small)["event"] == "created"
    await source.close()


async def test_one_that_is_given_up_is_told_to_a_topic_and_comes_no_more(place: Place) -> None:
    await place.put("bad", b"1")
    source = await place.opened(content=True)
    (bad,) = await take(source, 1)
    await source.bury(bad, settings(place.trigger()).dead_letter, "it failed 3 times")
    assert await source.take(10, 1.0) == []
    await source.close()
    async with Redis.from_url(place.url, protocol=2) as redis:
        ((_, fields),) = await redis.xrange(keys.topic("default", "dead.f.t"))
    event = json.loads(fields[b"e"])
    assert (event["type"], event["data"]["key"][-3:], fields[b"reason"]) == (
        "file.created",
        "bad",
        b"it failed 3 times",
    )
    assert "content" not in event["data"]


async def test_one_that_can_not_be_read_is_given_up_and_holds_up_nobody(place: Place) -> None:
    await place.put("a", b"1")
    await place.lock("a")
    await place.put("b", large := os.urandom(2_000_000))
    source = await place.opened(content=True, tries=3)
    with unprivileged() if place.roots else contextlib.nullcontext():
        (readable,), (locked,) = await take(source, 1), await take(source, 1)
    assert names([readable, locked]) == [("created", "a"), ("created", "b")]
    assert base64.b64decode(json.loads(readable.body)["content"]) == large
    assert locked.tries == 3
    with pytest.raises(ValueError, match=r"InvalidObjectState|Permission denied"):  # so the consumer buries it
        settings(place.trigger()).shape.event([Held(locked, 3)], 0)
    await source.bury(locked, "dead.f.t", "why")
    assert await source.take(10, 0.5) == []
    await source.close()


def test_no_more_names_are_held_than_a_gateway_has_room_for() -> None:
    file = File("v", 1, 1)
    with pytest.raises(SourceError, match="1024 bytes"):
        Listing("b").add("x" * 1025, file)
    with pytest.raises(SourceError, match="1024 bytes"):
        Listing("b").add("x", file._replace(version="v" * 1025))
    held = Listing("b")
    with pytest.raises(SourceError, match="holds more than"):
        for number in range(FILES_MAX):
            held.add(f"{number:01000}", file)
    assert len(held.files) < 20_000


class Endless:
    """A place in which all is new at each look, with as many names as it may have."""

    def __init__(self) -> None:
        self._looks = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def look(self) -> dict[str, File]:
        self._looks += 1
        return {f"{self._looks}-{number:0900}": File("v", 1, 1) for number in range(15_000)}

    async def content(self, key: str, file: File) -> bytes | None:
        return None


async def test_what_is_remembered_of_a_place_has_a_bound(redis_url: str) -> None:
    wanted = Wanted(created=False, removed=True, content=False, poll_s=0, tries=3, newest=False)
    source = FilesSource(Endless(), "endless", redis_url, ("default", "f", "t"), wanted)
    for _ in range(4):  # each time it looks
        await source.open(1)
        await source.close()
    async with Redis.from_url(redis_url, protocol=2) as redis:
        assert await redis.hlen(keys.files("default", "f", "t")) <= 1 + 2 * 18_000


async def test_a_place_that_is_not_there_is_said_so(place: Place) -> None:
    gone = place._replace(source=place.source.replace("/in", "/gone") if place.roots else f"{place.source[:-12]}x/")
    with pytest.raises(SourceError):
        await gone.opened()


async def test_a_folder_shows_no_more_than_it_may(tmp_path: Path, redis_server: servers.RedisServer) -> None:
    async def nothing(*_: Any) -> None: ...

    own = f"redis://127.0.0.1:{await tcp(redis_server)}/0"
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("s")
    (inside / "link").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    (inside / ".part").write_text("not whole yet")
    os.mkfifo(inside / "pipe")
    (inside / "plain").write_text("p")
    (inside / "way").mkdir()
    (inside / "way/secret").write_text("s")
    place = Place(f"file://{inside}", nothing, nothing, nothing, own, (inside,))
    source = await place.opened(content=True)
    (inside / "way").rename(inside / ".way")  # after the look, the folder on the way becomes a link
    (inside / "way").symlink_to(outside)
    assert names(await take(source, 1)) == [("created", "plain")]
    assert await source.take(10, 0.5) == []
    await source.close()
    (table,) = triggers.check([{"name": "t", "type": "files", "source": f"file://{outside}"}])
    for root in (inside, tmp_path / "ou"):
        refused = Doors(own, (root,)).missing([table])
        assert refused == f"trigger 't': {outside} may not be watched; start the platform with --files {outside}"
    (tmp_path / "alias").symlink_to(outside)
    with pytest.raises(SourceError, match="may not be watched"):
        await place._replace(source=f"file://{tmp_path}/alias").opened()
