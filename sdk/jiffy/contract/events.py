"""The events of other sources than HTTP, in the shapes that AWS Lambda gives them, so that its handlers and libraries
work unchanged. Pure. An HTTP request's event: httpevent.py.

Jiffy has no accounts and regions; typed libraries parse them, so they have a fixed value of the right form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import md5
from typing import Any
from urllib.parse import quote_plus

ACCOUNT, REGION = "000000000000", "local"


def encode(event: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def schedule(*, event_id: str, function: str, trigger: str, tick_ms: int, detail: dict[str, Any]) -> dict[str, Any]:
    """EventBridge's "Scheduled Event". `time` is the tick, not when it was fired."""
    return {
        "version": "0",
        "id": event_id,
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": datetime.fromtimestamp(tick_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{function}/{trigger}"],
        "detail": detail,
    }


SqsMessage = tuple[str, str, int, int, Mapping[str, str], Mapping[str, str]]


def sqs(*, queue: str, messages: Iterable[SqsMessage], now_ms: int) -> dict[str, Any]:
    """SQS's batch: per message its id, body, tries, when it was sent (epoch ms), its attributes and the queue's."""
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
    return {
        "Records": [
            {
                "messageId": message,
                "receiptHandle": message,
                "body": body,
                "attributes": {
                    "ApproximateReceiveCount": str(tries),
                    "SentTimestamp": str(sent_ms),
                    "SenderId": ACCOUNT,
                    "ApproximateFirstReceiveTimestamp": str(now_ms),
                    **system,
                },
                "messageAttributes": {
                    name: {"stringValue": text, "dataType": "String", "stringListValues": [], "binaryListValues": []}
                    for name, text in attributes.items()
                },
                "md5OfBody": md5(body.encode(), usedforsecurity=False).hexdigest(),
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
                "awsRegion": REGION,
            }
            for message, body, tries, sent_ms, attributes, system in messages
        ]
    }


def eventbridge(event: Mapping[str, Any]) -> dict[str, Any]:
    """A CloudEvent as EventBridge has events."""
    return {
        "version": "0",
        "id": event["id"],
        "detail-type": event["type"],
        "source": event["source"],
        "account": ACCOUNT,
        "time": event.get("time", ""),
        "region": REGION,
        "resources": [event["subject"]] if "subject" in event else [],
        "detail": event.get("data"),
    }


def sns(topic: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """CloudEvents, each with the id that the topic gave it, as SNS has messages: the data is the message's text."""
    arn = f"arn:aws:sns:{REGION}:{ACCOUNT}:{topic}"
    return {
        "Records": [
            {
                "EventSource": "aws:sns",
                "EventVersion": "1.0",
                "EventSubscriptionArn": f"{arn}:subscription",
                "Sns": {
                    "Type": "Notification",
                    "MessageId": message,
                    "TopicArn": arn,
                    "Subject": event["type"],
                    "Message": data if isinstance(data := event.get("data"), str) else json.dumps(data),
                    "Timestamp": event.get("time", ""),
                    "SignatureVersion": "1",
                    "Signature": "",
                    "SigningCertUrl": "http://localhost/",
                    "UnsubscribeUrl": "http://localhost/",
                    "MessageAttributes": {
                        name: {"Type": "String", "Value": str(value)}
                        for name, value in event.items()
                        if name not in ("data", "data_base64")
                    },
                },
            }
            for message, event in events
        ]
    }


def s3(*, bucket: str, key: str, size: int, etag: str, now_ms: int, created: bool = True) -> dict[str, Any]:
    """S3's notification of one object; `key` is plain here and URL-encoded in the event, as S3 has it."""
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": REGION,
                "eventTime": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "eventName": "ObjectCreated:Put" if created else "ObjectRemoved:Delete",
                "userIdentity": {"principalId": ACCOUNT},
                "requestParameters": {"sourceIPAddress": "127.0.0.1"},
                "responseElements": {"x-amz-request-id": f"{now_ms:016X}", "x-amz-id-2": ""},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "jiffy",
                    "bucket": {
                        "name": bucket,
                        "ownerIdentity": {"principalId": ACCOUNT},
                        "arn": f"arn:aws:s3:::{bucket}",
                    },
                    "object": {
                        "key": quote_plus(key, safe="/"),
                        "size": size,
                        "eTag": etag,
                        "sequencer": f"{now_ms:016X}",
                    },
                },
            }
        ]
    }
