"""CloudEvents 1.0 over HTTP, read: binary, structured and batch. Pure; the format is the `cloudevents` library's.

Source: cloudevents/spec, cloudevents/bindings/http-protocol-binding.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from jiffy.contract.errors import InvalidRequest

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
BATCH_MAX = 256
DEEP_MAX = 100  # levels: some readers of JSON end there
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_FORMAT = JSONFormat()


def read(headers: Mapping[str, str], body: bytes) -> list[dict[str, Any]]:
    """The events of a request, complete and as JSON has them; `headers` in lower case. Raises InvalidRequest."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == BATCH:
        found = parse(body)
        if not isinstance(found, list) or len(found) > BATCH_MAX:
            raise InvalidRequest(f"a batch is a JSON array of at most {BATCH_MAX} events")
        return [_structured(event, f"event {n}: ") for n, event in enumerate(found, 1)]
    if kind == STRUCTURED:
        return [_structured(parse(body), "")]
    if "ce-specversion" not in headers:
        raise InvalidRequest(f"this is no CloudEvent: send ce-… headers, {STRUCTURED}, or {BATCH}")
    if kind == "application/json" or kind.endswith("+json"):
        parse(body)
    only = {name: value for name, value in headers.items() if name.startswith("ce-") or name == "content-type"}
    return [_written(lambda: from_binary(HTTPMessage(headers=only, body=body), _FORMAT, CloudEvent), "")]


def make(attributes: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """An event of our own."""
    return _structured({"specversion": "1.0", **attributes, "data": data}, "")


def _structured(event: Any, where: str) -> dict[str, Any]:
    if not isinstance(event, dict):
        raise InvalidRequest(f"{where}an event is a JSON object")
    return _written(lambda: _FORMAT.read(CloudEvent, json.dumps(event)), where)


def _written(read_one: Any, where: str) -> dict[str, Any]:
    """The library's checks are done while it reads; what it writes has a time, and base64 where it must."""
    try:
        return dict(json.loads(_FORMAT.write(read_one())))
    except BaseCloudEventException as exc:
        reasons = str(exc).rpartition("errors:: ")[2].replace("\n", "; ")
        raise InvalidRequest(f"{where}this is no CloudEvent 1.0: {reasons[:500]}") from exc
    except (ValueError, TypeError, AttributeError) as exc:
        raise InvalidRequest(f"{where}this is no CloudEvent 1.0: {str(exc)[:200]}") from exc


def parse(body: bytes) -> Any:
    """The JSON of a body: what every reader of it can read, too. Raises InvalidRequest."""
    try:
        found = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if _SURROGATE.search(body):
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the event must be JSON: {exc}") from exc
    if _deep(found):
        raise InvalidRequest(f"the event must be JSON of at most {DEEP_MAX} levels")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEP_MAX + 1):
        tables = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [one for table in tables for one in table if isinstance(one, (dict, list))]
        if not level:
            return False
    return True
