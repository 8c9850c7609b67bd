"""Which adapter opens which address. A client library that only some need is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from gateway.triggers.sources.base import Source
from gateway.triggers.sources.redis_queues import RedisList, RedisStream
from gateway.triggers.sources.topic import TopicSource, group_of
from gateway.triggers.trigger import Trigger
from jiffy.contract import queues

LIBRARIES = {"rabbitmq": "aio_pika", "nats": "nats", "aws": "aiobotocore"}  # extra → what it brings
ADAPTERS = {"rabbitmq": "rabbitmq", "nats": "nats", "aws": "sqs"}  # extra → the module that needs it


def _installed(module: str) -> bool:
    return find_spec(module) is not None


def missing(tables: Iterable[Mapping[str, Any]], installed: Callable[[str], bool] = _installed) -> str:
    """What this gateway lacks to serve these triggers, as one line; "" when it lacks nothing."""
    for table in tables:
        scheme = str(table.get("source", "")).partition(":")[0]
        extra = queues.EXTRAS.get(scheme)
        if extra and not installed(LIBRARIES[extra]):
            return f"trigger {table['name']!r} needs {LIBRARIES[extra]} on the gateways: pip install 'jiffy[{extra}]'"
    return ""


def source(trigger: Trigger, own_url: str = "", since_ms: int = 0) -> Source:
    """The adapter for a trigger, not open yet. `own_url` is where the platform's own topics are.

    Its client library may be imported here, which can take a second: not for a thread that serves others.
    """
    options = trigger.options
    if trigger.type == "topic":
        tenant, function, name = trigger.id
        return TopicSource(own_url, tenant, options["topic"], group_of(function, name), since_ms)
    address = queues.parse(options["source"])
    group = f"jiffy-{trigger.id.function}-{trigger.id.name}"
    if address.scheme.endswith("+stream"):
        start = "0" if options["start"] == "oldest" else "$"
        return RedisStream(f"{address.server}/{address.space}", address.name, group, start)
    if address.scheme.endswith("+list"):
        return RedisList(f"{address.server}/{address.space}", address.name, group, options["end"])
    module = import_module(f"gateway.triggers.sources.{ADAPTERS[queues.EXTRAS[address.scheme]]}")
    return cast(Source, module.open_address(address, group, options))
