"""Queues of Amazon SQS, or of a server that speaks its API, as sources.

What is out stays invisible to others by a sign of life; after a crash it comes again when VISIBLE_S have passed, after
`close` at once. One long poll is on its way at a time: it outlives the `take` that began it, and `close` waits for it,
or what it still brings would be lost for VISIBLE_S.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from gateway.triggers.sources.aws import client, translated
from gateway.triggers.sources.base import Message, SourceError
from jiffy.contract.queues import Address

VISIBLE_S = 30
POLL_S = 2  # of one request: a bill for an idle queue against how long a change of the trigger waits
COUNTED = ("ApproximateReceiveCount", "SentTimestamp")  # which a message has anyway
BATCH_MAX = 10  # messages of one request: SQS's own bound

T = TypeVar("T")


def open_address(address: Address, group: str, options: Mapping[str, Any]) -> SqsQueue:
    return SqsQueue(address)


class SqsQueue:
    def __init__(self, address: Address, visible_s: int = VISIBLE_S) -> None:
        self._address = address
        self._visible_s = visible_s
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._polling: asyncio.Task[list[Any]] | None = None
        self._ready: list[Any] = []  # came, and is not handed out yet
        self._out: dict[str, str] = {}  # message → the receipt by which it is kept or deleted
        self._living: asyncio.Task[None] | None = None

    async def open(self, most: int) -> None:
        with translated():
            self._client = await self._stack.enter_async_context(client("sqs", self._address))
        self._url = f"{self._client.meta.endpoint_url}/{self._address.space}/{self._address.name}"
        await self.lag()  # is it there?
        self._living = asyncio.create_task(self._live())

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._visible_s / 3)
            with contextlib.suppress(SourceError):  # whoever deletes them meets the same
                await self._seen_again_in(self._visible_s)

    async def _seen_again_in(self, seconds: int) -> None:
        receipts = list(self._out.values())
        for some in _by_ten(receipts):
            entries = [
                {"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": seconds} for n, receipt in enumerate(some)
            ]
            with translated():
                await self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    async def take(self, most: int, wait_s: float) -> list[Message]:
        if not self._ready:
            polling = self._polling = self._polling or asyncio.create_task(self._poll(min(most, BATCH_MAX)))
            if not (await asyncio.wait([polling], timeout=wait_s))[0]:
                return []
            self._polling = None
            self._ready = polling.result()
        found, self._ready = self._ready[:most], self._ready[most:]
        return [_message(one) for one in found]

    async def _poll(self, most: int) -> list[Any]:
        with translated():
            answer = await self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=most,
                WaitTimeSeconds=POLL_S,
                VisibilityTimeout=self._visible_s,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        found: list[Any] = answer.get("Messages", [])
        self._out |= {one["MessageId"]: one["ReceiptHandle"] for one in found}
        return found

    async def done(self, messages: Sequence[Message]) -> None:
        for some in _by_ten(messages):
            entries = [
                {"Id": str(n), "ReceiptHandle": message.receipt["ReceiptHandle"]} for n, message in enumerate(some)
            ]
            with translated():
                answer = await self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
            if failed := answer.get("Failed"):
                raise SourceError(f"{len(failed)} messages can't be deleted: {failed[0].get('Message', '')}"[:300])
            for message in some:
                self._out.pop(message.id, None)

    async def bury(self, message: Message, target: str, reason: str) -> None:
        was = message.receipt
        attributes = dict(list(was.get("MessageAttributes", {}).items())[:9])  # SQS takes ten
        attributes["jiffy-reason"] = {"DataType": "String", "StringValue": _sayable(reason)}
        wanted: dict[str, Any] = {"MessageBody": was["Body"], "MessageAttributes": attributes}
        if target.endswith(".fifo"):
            wanted["MessageGroupId"] = was.get("Attributes", {}).get("MessageGroupId", "jiffy")
            wanted["MessageDeduplicationId"] = message.id
        with translated():
            await self._client.send_message(QueueUrl=await self._url_of(target), **wanted)
        await self.done([message])

    async def _url_of(self, name: str) -> str:
        """A queue of the same account; one that is not there is made."""
        try:
            answer = await self._client.get_queue_url(QueueName=name)
        except ClientError as exc:
            if "NonExistentQueue" not in str(exc.response) and "QueueDoesNotExist" not in str(exc.response):
                raise
            fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
            keep_s = 14 * 24 * 3600  # the longest that SQS has
            answer = await self._client.create_queue(
                QueueName=name, Attributes={"MessageRetentionPeriod": str(keep_s)} | fifo
            )
        return str(answer["QueueUrl"])

    async def lag(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        with translated():
            answer = await self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    async def close(self) -> None:
        if self._living is not None:
            self._living.cancel()
        try:
            if self._polling is not None:
                with contextlib.suppress(SourceError):
                    await self._polling
            if self._client is not None:
                await self._seen_again_in(0)
        finally:
            if self._polling is not None:
                self._polling.cancel()
            await self._stack.aclose()


def _by_ten(things: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(things), BATCH_MAX):
        yield things[start : start + BATCH_MAX]


def _sayable(text: str) -> str:
    """What an attribute of a message may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:500] or "?"


def _message(found: Mapping[str, Any]) -> Message:
    system = found.get("Attributes", {})
    return Message(
        id=found["MessageId"],
        body=found["Body"],
        tries=int(system.get("ApproximateReceiveCount", 1)),
        sent_ms=int(system.get("SentTimestamp", 0)),
        attributes={
            name: value["StringValue"]
            for name, value in found.get("MessageAttributes", {}).items()
            if "StringValue" in value
        },
        system={name: value for name, value in system.items() if name not in COUNTED},
        receipt=found,
    )
