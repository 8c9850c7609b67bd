"""Files that appear in a place and vanish from it, as a source: what a look finds is held against what was dealt with.

That is kept in the platform's Redis, key by key, and changes only when a call has ended: so nothing is lost while no
gateway runs, and what a gateway held when it died comes again. What came and went between two looks was never there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from uuid_utils import uuid7

from gateway.triggers import cloudevent, topic_store
from gateway.triggers.sources.base import Message, SourceError
from gateway.triggers.sources.redis_errors import translated
from jiffy import primary
from jiffy.contract import keys

CONNECT_MAX_S, PATIENCE_S = 5.0, 10.0
FILES_MAX = 100_000  # of one place: all of their names are held in memory, and kept in Redis
KEY_MAX_BYTES = 1024  # S3's own bound; a version has no more either
NAMES_MAX_BYTES = 16 * 1024 * 1024  # of all keys and versions of one place
CONTENT_MAX_BYTES = 3 * 1024 * 1024  # more would not fit an event, as base64
WRITE_MAX = 1000  # fields of one command
OF = ""  # the field that says which place the others are of: no file has this name


class File(NamedTuple):
    """One file as a look found it."""

    version: str  # another one when the content is another
    size: int
    at_ms: int
    whole: bool = True  # False: somebody may still be writing to it


class Unreadable(Exception):
    """This one file can't be read, and the place is there; the message says why."""


class Listing:
    """What a look finds in `place`. `add` raises SourceError when it is more than a gateway holds."""

    def __init__(self, place: str) -> None:
        self.files: dict[str, File] = {}
        self._place = place
        self._bytes = 0

    def add(self, key: str, file: File) -> None:
        if max(sizes := (len(key.encode()), len(file.version.encode()))) > KEY_MAX_BYTES:
            raise SourceError(f"{self._place} has a name of more than {KEY_MAX_BYTES} bytes: {key[:60]}…")
        self.files[key] = file
        self._bytes += sum(sizes)
        if len(self.files) > FILES_MAX or self._bytes > NAMES_MAX_BYTES:
            most = f"{FILES_MAX} files, or of {NAMES_MAX_BYTES} bytes of names"
            raise SourceError(f"{self._place} holds more than {most}; watch a part of it")


class Place(Protocol):
    """Where files are. All methods raise SourceError when it is not there."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def look(self) -> dict[str, File]:
        """All files there are, by key, a path without a leading slash."""

    async def content(self, key: str, file: File) -> bytes | None:
        """The bytes of a file; None when it went or is another by now. Raises Unreadable, too."""


class Wanted(NamedTuple):
    """What of a place a trigger wants to hear."""

    created: bool
    removed: bool
    content: bool
    poll_s: float
    tries: int  # to read a file's content
    newest: bool  # what is there when the trigger begins is none of its business


class Change(NamedTuple):
    """What a look found to be new. `file` None: it is gone."""

    key: str
    file: File | None


class FilesSource:
    """`name` tells the place from others, `owner` is tenant, function and trigger."""

    def __init__(self, place: Place, name: str, url: str, owner: tuple[str, str, str], wanted: Wanted) -> None:
        self._place = place
        self._name = name
        self._url = url
        self._tenant = owner[0]
        self._known_key, self._tries_key = keys.files(*owner), keys.files_tries(*owner)
        self._wanted = wanted
        self._known: dict[str, str] = {}  # key → version that was dealt with
        self._waiting: deque[Change] = deque()
        self._out: set[str] = set()
        self._looked = 0.0
        self._redis: Any = None

    async def open(self, most: int) -> None:
        self._redis = primary.client(self._url, socket_connect_timeout=CONNECT_MAX_S, socket_timeout=PATIENCE_S)
        await self._place.open()
        with translated():
            of = await self._redis.hget(self._known_key, OF)
            if of is None or of.decode() != self._name:
                await self._begin()
            async for key, version in self._redis.hscan_iter(self._known_key, count=WRITE_MAX):
                self._known[key.decode()] = version.decode()
        del self._known[OF]
        await self._look()

    async def _begin(self) -> None:
        there = await self._place.look() if self._wanted.newest else {}
        await self._redis.delete(self._known_key, self._tries_key)
        await self._remember({key: file.version for key, file in there.items()})
        await self._redis.hset(self._known_key, OF, self._name)

    async def _remember(self, versions: dict[str, str]) -> None:
        found = list(versions.items())
        for start in range(0, len(found), WRITE_MAX):
            await self._redis.hset(self._known_key, mapping=dict(found[start : start + WRITE_MAX]))

    # --- looking --------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        there = await self._place.look()
        self._looked = time.monotonic()
        changed = [
            Change(key, file)
            for key, file in there.items()
            if file.whole and self._known.get(key) != file.version and key not in self._out
        ]
        gone = [Change(key, None) for key in self._known if key not in there and key not in self._out]
        if not self._wanted.created:
            if _size(self._known, gone) <= NAMES_MAX_BYTES:  # or what is remembered would grow with each look
                await self._settle(changed)
            changed = []
        if not self._wanted.removed:
            await self._settle(gone)
            gone = []
        changed.sort(key=lambda change: (change.file.at_ms if change.file else 0, change.key))
        self._waiting = deque(gone + changed)

    async def _settle(self, changes: Sequence[Change]) -> None:
        """These are dealt with."""
        versions = {change.key: change.file.version for change in changes if change.file}
        removed = [change.key for change in changes if not change.file]
        names = [change.key for change in changes]
        with translated():
            await self._remember(versions)
            for start in range(0, len(names), WRITE_MAX):
                await self._redis.hdel(self._tries_key, *names[start : start + WRITE_MAX])
            for start in range(0, len(removed), WRITE_MAX):
                await self._redis.hdel(self._known_key, *removed[start : start + WRITE_MAX])
        self._known |= versions
        for key in removed:
            self._known.pop(key, None)

    # --- a source -------------------------------------------------------------------------------------------

    async def take(self, most: int, wait_s: float) -> list[Message]:
        until = time.monotonic() + wait_s
        while True:
            if found := await self._next(most, until):
                return found
            next_look = self._looked + self._wanted.poll_s
            await asyncio.sleep(max(0.0, min(until, next_look) - time.monotonic()))
            if time.monotonic() >= next_look and not self._waiting:
                await self._look()
            elif time.monotonic() >= until:
                return []

    async def _next(self, most: int, until: float) -> list[Message]:
        found: list[Message] = []
        while self._waiting and len(found) < most:
            change = self._waiting.popleft()
            content, trouble = b"", ""
            if change.file and self._holds_content(change.file):
                try:
                    read = await self._place.content(change.key, change.file)
                except Unreadable as exc:
                    read, trouble = b"", str(exc)
                if read is None:
                    continue  # the next look tells what became of it
                content = read
            with translated():
                tries = int(await self._redis.hincrby(self._tries_key, change.key, 1))
            if not trouble or tries >= self._wanted.tries:
                self._out.add(change.key)
                found.append(self._message(change, tries, content, trouble))
            elif time.monotonic() >= until:  # the next look tells of it again
                break
        return found

    def _holds_content(self, file: File) -> bool:
        return self._wanted.content and file.size <= CONTENT_MAX_BYTES

    def _message(self, change: Change, tries: int, content: bytes, trouble: str) -> Message:
        """With `trouble` it is one that no event can be made of."""
        file = change.file or File("", 0, int(time.time() * 1000))
        document: dict[str, Any] = {
            "event": "created" if change.file else "removed",
            "key": change.key,
            "size": file.size,
            "version": file.version,
        }
        if trouble:
            document["unreadable"] = trouble
        elif change.file and self._holds_content(change.file):
            document["content"] = base64.b64encode(content).decode()
        body = json.dumps(document, ensure_ascii=False)
        return Message(f"{change.key}:{file.version}", body, tries, file.at_ms, receipt=change)

    async def done(self, messages: Sequence[Message]) -> None:
        await self._settle([message.receipt for message in messages])
        self._out -= {message.receipt.key for message in messages}

    async def bury(self, message: Message, target: str, reason: str) -> None:
        """Tell it to the topic `target`, as a CloudEvent without the content."""
        document = json.loads(message.body)
        for ours in ("content", "unreadable"):
            document.pop(ours, None)
        attributes = {
            "id": str(uuid7()),
            "source": f"/{target}",
            "type": f"file.{document['event']}",
            "datacontenttype": "application/json",
        }
        event = cloudevent.make(attributes, document)
        pipe = self._redis.pipeline(transaction=True)
        text = json.dumps(event, ensure_ascii=False)
        with translated():
            await topic_store.bury(self._redis, pipe, self._tenant, target, text, reason)
            await pipe.execute()
        await self.done([message])

    async def lag(self) -> int:
        return len(self._waiting) + len(self._out)

    async def close(self) -> None:
        await self._place.close()
        if self._redis is not None:
            with translated():
                await self._redis.aclose()


def _size(known: Mapping[str, str], changes: Iterable[Change]) -> int:
    """Bytes of these keys and of their versions."""
    return sum(len(change.key.encode()) + len(known[change.key].encode()) for change in changes)
