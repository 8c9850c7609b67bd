"""Topics of Kafka, or of a server that speaks its protocol, as sources, through aiokafka (the extra jiffy[kafka]).

All partitions are read by whoever has the source open, and offsets are committed for a group of the trigger's own. An
offset says "all before is done", so what is done beyond it is written into the commit's metadata, and what was handed
out and is not done comes again, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import Any
from urllib.parse import unquote, urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from gateway.triggers.sources.base import Message, SourceError
from jiffy.contract.queues import Address, public

REPLY_MAX_MS = 5000
LOOK_S = 10.0  # how often a silent server is asked whether it is there, and which partitions there are
FETCH_MAX_BYTES = 8 * 1024 * 1024  # that wait here to be taken
DONE_MAX = 1_000_000  # offsets that a server is believed to be done; all beyond comes again
OFFSET_MAX = 2**63 - 1  # the protocol has eight bytes for it
METADATA_MAX = 4000  # characters: the servers' default is 4096 bytes

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it has to say comes as SourceError


def open_address(address: Address, group: str, options: Mapping[str, Any]) -> KafkaTopic:
    return KafkaTopic(address, group, newest=options["start"] == "newest")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError, TimeoutError, ValueError) as exc:
        raise SourceError(public(str(exc)) or type(exc).__name__) from exc


@dataclass(slots=True)
class Progress:
    """How far a partition is. Pure."""

    next: int  # all before was handed out
    tried: int  # what is before was handed out by a consumer before us, perhaps
    out: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)  # beyond the first that is out

    def finish(self, offsets: Collection[int]) -> None:
        self.out.difference_update(offsets)
        first = self.committed  # what a consumer before us did is not read yet: not to be forgotten
        self.done = {one for one in (*self.done, *offsets) if one >= first}

    @property
    def committed(self) -> int:
        """All before is done."""
        return min(self.out, default=self.next)

    def metadata(self) -> str:
        """What is done beyond `committed`, as ranges from it on, and how far messages were handed out."""
        first, ranges = self.committed, list[list[int]]()
        for offset in sorted(self.done):
            if ranges and ranges[-1][1] == offset - first - 1:
                ranges[-1][1] += 1
            else:
                ranges.append([offset - first] * 2)
        tried = max(self.next, self.tried) - first
        while len(text := json.dumps({"tried": tried, "done": ranges})) > METADATA_MAX:
            ranges = ranges[: len(ranges) * 3 // 4]  # those left out come again
        return text

    @classmethod
    def read(cls, offset: int, metadata: str, most: int = DONE_MAX) -> Progress:
        """What a consumer before us committed; another's metadata says nothing, and whose server lies costs little."""
        try:
            tried, done = _said(metadata)
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls(offset, offset)
        return cls(offset, offset + tried, done={offset + n for n in islice(chain.from_iterable(done), most)})


def _said(metadata: str) -> tuple[int, list[range]]:
    """What `Progress.metadata` wrote. Raises ValueError, TypeError, KeyError or RecursionError: it did not write it."""
    if len(metadata) > METADATA_MAX:
        raise ValueError("too long")
    document = json.loads(metadata)
    tried, done = document["tried"], [range(first, last + 1) for first, last in document["done"]]
    bounds = [-1, *chain.from_iterable((one.start, one.stop) for one in done)]
    if not isinstance(tried, int) or max(tried, bounds[-1]) > OFFSET_MAX:
        raise ValueError("no offset")
    if max(0, bounds[-1]) > tried or any(one >= other for one, other in pairwise(bounds)):
        raise ValueError("not ascending, or not handed out")
    return tried, done


class KafkaTopic:
    def __init__(self, address: Address, group: str, newest: bool) -> None:
        self._address = address
        self._topic = address.name
        self._group = group
        self._newest = newest
        self._stack = AsyncExitStack()
        self._parts: dict[TopicPartition, Progress] = {}
        self._looked = 0.0
        self._consumer: Any = None

    async def open(self, most: int) -> None:
        with _translated():
            async with asyncio.timeout(2 * REPLY_MAX_MS / 1000):
                where = _where(self._address)
                self._producer = AIOKafkaProducer(**where, acks="all")
                self._stack.push_async_callback(self._producer.stop)
                await self._producer.start()
                self._admin = AIOKafkaAdminClient(**where)
                self._stack.push_async_callback(self._admin.close)
                await self._admin.start()
                self._consumer = AIOKafkaConsumer(
                    **where,
                    group_id=self._group,
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    fetch_max_bytes=FETCH_MAX_BYTES,
                )
                self._stack.push_async_callback(self._consumer.stop)
                await self._consumer.start()
                await self._look(self._newest)

    async def _look(self, newest: bool = False) -> None:
        """Take in partitions that we do not read yet: from their beginning, or from now on."""
        self._looked = time.monotonic()
        (found,) = await self._admin.describe_topics([self._topic])
        fresh = {TopicPartition(self._topic, one["partition"]) for one in found["partitions"]} - set(self._parts)
        if found.get("error_code") or not (fresh or self._parts):
            raise SourceError(f"there is no topic {self._topic}")
        if not fresh:
            return
        committed = await self._admin.list_consumer_group_offsets(self._group, partitions=list(fresh))
        self._consumer.assign([*self._parts, *fresh])
        ends = await (self._consumer.end_offsets if newest else self._consumer.beginning_offsets)(list(fresh))
        most = DONE_MAX // (len(self._parts) + len(fresh))
        for part in fresh:
            said = committed.get(part)
            known = said is not None and said.offset >= 0
            self._parts[part] = Progress.read(said.offset, said.metadata, most) if known else Progress(ends[part], 0)
        for part, progress in self._parts.items():
            self._consumer.seek(part, progress.next)
        await self._commit(fresh)

    async def _commit(self, parts: Collection[TopicPartition]) -> None:
        offsets = {part: OffsetAndMetadata(self._parts[part].committed, self._parts[part].metadata()) for part in parts}
        if offsets:
            await self._consumer.commit(offsets)

    async def take(self, most: int, wait_s: float) -> list[Message]:
        with _translated():
            if time.monotonic() - self._looked > LOOK_S:
                await self._look()
            found = await self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=most)
        messages = []
        for part, records in found.items():
            progress = self._parts[part]
            for record in records:
                progress.next = record.offset + 1
                if record.offset not in progress.done:
                    progress.out.add(record.offset)
                    messages.append(_message(record, 2 if record.offset < progress.tried else 1))
        return messages

    async def done(self, messages: Sequence[Message]) -> None:
        ended: defaultdict[TopicPartition, list[int]] = defaultdict(list)
        for message in messages:
            record = message.receipt
            ended[TopicPartition(record.topic, record.partition)].append(record.offset)
        for part, offsets in ended.items():
            self._parts[part].finish(offsets)
        with _translated():
            await self._commit(ended)

    async def bury(self, message: Message, target: str, reason: str) -> None:
        was = message.receipt
        headers = [*was.headers, ("jiffy-reason", reason.encode()[:500])]
        with _translated():
            await self._producer.send_and_wait(target, was.value, key=was.key, headers=headers)
        await self.done([message])

    async def lag(self) -> int:
        with _translated():
            ends = await self._consumer.end_offsets(list(self._parts))
        return sum(ends[part] - one.committed - len(one.done) for part, one in self._parts.items())

    async def close(self) -> None:
        with _translated():
            try:
                if self._parts:  # how far messages were handed out
                    async with asyncio.timeout(REPLY_MAX_MS / 1000):
                        await self._commit(set(self._parts))
            finally:
                await self._stack.aclose()


def _where(address: Address) -> dict[str, Any]:
    """What all clients are told of the server."""
    parts = urlsplit(address.server)
    secure = parts.scheme.endswith("+ssl")
    where: dict[str, Any] = {
        "bootstrap_servers": f"{parts.hostname}:{parts.port or 9092}",
        "request_timeout_ms": REPLY_MAX_MS,
        "security_protocol": ("SASL_" if parts.username else "") + ("SSL" if secure else "PLAINTEXT"),
    }
    if secure:
        where["ssl_context"] = ssl.create_default_context()
    if parts.username:
        where |= {
            "sasl_mechanism": address.space,
            "sasl_plain_username": unquote(parts.username),
            "sasl_plain_password": unquote(parts.password or ""),
        }
    return where


def _message(record: ConsumerRecord[bytes | None, bytes | None], tries: int) -> Message:
    system = {"Topic": record.topic, "Partition": str(record.partition), "Offset": str(record.offset)}
    if record.key is not None:
        system["Key"] = record.key.decode("utf-8", "replace")
    return Message(
        id=f"{record.partition}:{record.offset}",
        body=(record.value or b"").decode("utf-8", "replace"),
        tries=tries,
        sent_ms=record.timestamp,
        attributes={name: (value or b"").decode("utf-8", "replace") for name, value in record.headers},
        receipt=record,
        system=system,
    )
