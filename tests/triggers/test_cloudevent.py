"""CloudEvents come in all three ways of HTTP, and what is none is told why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.triggers import cloudevent
from jiffy.contract.errors import InvalidRequest

EVENT: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "data": {"n": 1}}
CE = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "order.paid"}


def structured(event: Any) -> list[dict[str, Any]]:
    return cloudevent.read({"content-type": cloudevent.STRUCTURED + "; charset=utf-8"}, json.dumps(event).encode())


def test_the_three_ways_say_the_same() -> None:
    (one,) = structured(EVENT | {"time": "2027-01-01T00:00:00Z"})
    (binary,) = cloudevent.read(
        CE | {"ce-time": "2027-01-01T00:00:00Z", "content-type": "application/json", "host": "x"}, b'{"n": 1}'
    )
    batch = cloudevent.read(
        {"content-type": cloudevent.BATCH}, json.dumps([EVENT | {"time": "2027-01-01T00:00:00Z"}] * 2).encode()
    )
    assert one == EVENT | {"time": "2027-01-01T00:00:00Z"}
    assert binary == one | {"datacontenttype": "application/json"}
    assert batch == [one, one]


def test_binary_data_and_extensions_are_kept() -> None:
    (one,) = cloudevent.read(CE | {"content-type": "image/png", "ce-traceparent": "a%20b"}, b"\x00\xff")
    assert (one["data_base64"], one["traceparent"]) == ("AP8=", "a b")
    assert "time" in one


@pytest.mark.parametrize(
    ("event", "part"),
    [
        ([EVENT], "an event is a JSON object"),
        ({k: v for k, v in EVENT.items() if k != "type"}, "type"),
        (EVENT | {"id": ""}, "id"),
        (EVENT | {"specversion": "2.0"}, "specversion"),
        (EVENT | {"Bad_Name": "x"}, "Bad_Name"),
        (EVENT | {"time": "yesterday"}, "no CloudEvent 1.0"),
        ("text", "an event is a JSON object"),
    ],
)
def test_what_is_no_cloudevent_is_told_why(event: Any, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        structured(event)
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("headers", "body", "part"),
    [
        ({"content-type": "application/json"}, b"{}", "send ce-"),
        (CE | {"content-type": "application/json"}, b"{bad", "must be JSON"),
        ({"content-type": cloudevent.STRUCTURED}, b"{bad", "must be JSON"),
        ({"content-type": cloudevent.BATCH}, b"{}", "JSON array"),
        ({"content-type": cloudevent.BATCH}, json.dumps([EVENT, 3]).encode(), "event 2: "),
        ({"content-type": cloudevent.BATCH}, b"[" * 5000, "must be JSON"),
        ({"content-type": cloudevent.STRUCTURED}, b'{"data": NaN}', "NaN is not JSON"),
        (CE | {"content-type": "application/json"}, b"-Infinity", "is not JSON"),
        (CE | {"content-type": "application/json"}, b"[" * 150 + b"]" * 150, "100 levels"),
        (CE | {"content-type": "application/json"}, b'"\\ud800"', "must be JSON"),
    ],
)
def test_a_request_that_holds_none_is_refused(headers: dict[str, str], body: bytes, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        cloudevent.read(headers, body)
    assert part in caught.value.message
