"""What messages look like: to a pattern, and to the function. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.triggers.consumer import Held
from gateway.triggers.sources.base import Message
from jiffy.contract import events


class QueueShape:
    """A queue's messages: SQS's batch. Patterns see `body`, parsed where it is JSON, and `attributes`."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def seen(self, message: Message) -> Mapping[str, Any]:
        body: Any = message.body
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(message.body)
        return {"body": body, "attributes": dict(message.attributes)}

    def event(self, batch: Sequence[Held], now_ms: int) -> bytes:
        messages = [(m.id, m.body, tries, m.sent_ms, m.attributes, m.system) for m, tries in batch]
        return events.encode(events.sqs(queue=self._queue, messages=messages, now_ms=now_ms))


class FileShape:
    """A place's files: S3's notification of one object, with its bytes in `content` where the trigger asks for them.

    Patterns see `key`, `size` and `event` ("created" or "removed"). Of one that can't be read there is no event.
    """

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def seen(self, message: Message) -> Mapping[str, Any]:
        document = json.loads(message.body)
        return {name: document[name] for name in ("key", "size", "event")}

    def event(self, batch: Sequence[Held], now_ms: int) -> bytes:
        (held,) = batch
        document = json.loads(held.message.body)
        if "unreadable" in document:
            raise ValueError(document["unreadable"])
        event = events.s3(
            bucket=self._bucket,
            key=document["key"],
            size=document["size"],
            etag=document["version"],
            now_ms=held.message.sent_ms,
            created=document["event"] == "created",
        )
        if "content" in document:
            event["Records"][0]["s3"]["object"]["content"] = document["content"]
        return events.encode(event)


class TopicShape:
    """A topic's events: CloudEvents, or what SNS or EventBridge make of them. Patterns see the CloudEvent."""

    def __init__(self, topic: str, shape: str, batch_size: int) -> None:
        self._topic = topic
        self._shape = shape
        self._single = batch_size == 1

    def seen(self, message: Message) -> Mapping[str, Any]:
        return cloudevent(message)

    def event(self, batch: Sequence[Held], now_ms: int) -> bytes:
        found = [(held.message.id, cloudevent(held.message)) for held in batch]
        if self._shape == "sns":
            return events.encode(events.sns(self._topic, found))
        if self._shape == "eventbridge":
            return events.encode(events.eventbridge(found[0][1]))
        return batch[0].message.body.encode() if self._single else events.encode([event for _, event in found])


def cloudevent(message: Message) -> dict[str, Any]:
    """The event in a topic's message."""
    return dict(json.loads(message.body))
