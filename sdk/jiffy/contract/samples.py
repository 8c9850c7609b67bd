"""A sample event of each kind, made from what the caller gives: what `jiffy invoke --event KIND` sends. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import md5
from typing import Any

from . import events, httpevent

_ID = "00000000-0000-7000-8000-000000000000"


def _text(data: Any) -> str:
    return data if isinstance(data, str) else json.dumps(data)


def _cloudevent(data: Any, now_ms: int) -> dict[str, Any]:
    time = events.schedule(event_id=_ID, function="f", trigger="t", tick_ms=now_ms, detail={})["time"]
    return {"specversion": "1.0", "id": _ID, "source": "/sample", "type": "sample", "time": time, "data": data}


def _http(function: str, data: Any, now_ms: int) -> bytes:
    return httpevent.event(
        method="POST",
        path="/",
        raw_query="",
        headers=[("content-type", "application/json"), ("host", "localhost"), ("user-agent", "jiffy invoke")],
        body=_text(data).encode(),
        source_ip="127.0.0.1",
        request_id=_ID,
        now_ms=now_ms,
    )


def _s3(data: Any, now_ms: int) -> dict[str, Any]:
    key = str(data.get("key", "sample.txt")) if isinstance(data, dict) else "sample.txt"
    etag = md5(key.encode(), usedforsecurity=False).hexdigest()
    return events.s3(bucket="sample", key=key, size=1024, etag=etag, now_ms=now_ms)


def _schedule(function: str, data: Any, now_ms: int) -> dict[str, Any]:
    detail = data if isinstance(data, dict) else {}
    return events.schedule(event_id=_ID, function=function, trigger="schedule", tick_ms=now_ms, detail=detail)


KINDS: dict[str, Callable[[str, Any, int], bytes]] = {
    "http": _http,
    "schedule": lambda function, data, now_ms: events.encode(_schedule(function, data, now_ms)),
    "sqs": lambda function, data, now_ms: events.encode(
        events.sqs(queue="sample", messages=[(_ID, _text(data), 1, now_ms, {}, {})], now_ms=now_ms)
    ),
    "sns": lambda function, data, now_ms: events.encode(events.sns("sample", [(_ID, _cloudevent(data, now_ms))])),
    "s3": lambda function, data, now_ms: events.encode(_s3(data, now_ms)),
    "eventbridge": lambda function, data, now_ms: events.encode(events.eventbridge(_cloudevent(data, now_ms))),
    "cloudevent": lambda function, data, now_ms: events.encode(_cloudevent(data, now_ms)),
}


def sample(kind: str, function: str, data: Any, now_ms: int) -> bytes:
    """An event of this kind around `data`: a body, a message, a detail; for S3 its "key"."""
    return KINDS[kind](function, data, now_ms)
