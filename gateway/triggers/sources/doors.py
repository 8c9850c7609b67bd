"""Which adapter opens which address. A client library that only some need is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from gateway.triggers.sources.base import Source
from gateway.triggers.sources.files import FilesSource, Place, Wanted
from gateway.triggers.sources.folder import Folder, allowed
from gateway.triggers.sources.redis_queues import RedisList, RedisStream
from gateway.triggers.sources.topic import TopicSource, group_of
from gateway.triggers.trigger import Trigger, TriggerId
from jiffy.contract import places, queues
from jiffy.contract.access import DEFAULT_TENANT

LIBRARIES = {  # extra → what it brings
    "aws": "aiobotocore",
    "kafka": "aiokafka",
    "mqtt": "paho",
    "nats": "nats",
    "rabbitmq": "aio_pika",
}
EXTRAS = queues.EXTRAS | places.EXTRAS
POLL_S = {"file": 1.0, "s3": 10.0}  # of places; a listing of a bucket costs


def group(trigger: TriggerId) -> str:
    """What a trigger is called among those that read the same queue: no name has `_`, or two hyphens in a row."""
    whose = "" if trigger.tenant == DEFAULT_TENANT else f"{trigger.tenant}_"
    return f"jiffy-{whose}{trigger.function}--{trigger.name}"


def _installed(module: str) -> bool:
    return find_spec(module) is not None


class Doors:
    """`own_url` is where the platform's own topics are, `roots` the folders that may be watched."""

    def __init__(self, own_url: str = "", roots: Sequence[Path] = ()) -> None:
        self._own_url = own_url
        self._roots = tuple(roots)

    def missing(self, tables: Iterable[Mapping[str, Any]], installed: Callable[[str], bool] = _installed) -> str:
        """What this gateway lacks to serve these triggers, as one line; "" when it lacks nothing."""
        for table in tables:
            scheme = str(table.get("source", "")).partition(":")[0]
            extra, name = EXTRAS.get(scheme), table["name"]
            if extra and not installed(LIBRARIES[extra]):
                return f"trigger {name!r} needs {LIBRARIES[extra]} on the gateways: pip install 'jiffy[{extra}]'"
            if scheme == "file":
                folder = places.parse(table["source"]).space
                if not allowed(folder, self._roots):
                    return f"trigger {name!r}: {folder} may not be watched; start the platform with --files {folder}"
        return ""

    def source(self, trigger: Trigger, since_ms: int = 0) -> Source:
        """The adapter for a trigger, not open yet.

        Its client library may be imported here, which can take a second: not for a thread that serves others.
        """
        options = trigger.options
        if trigger.type == "topic":
            tenant, function, name = trigger.id
            return TopicSource(self._own_url, tenant, options["topic"], group_of(function, name), since_ms)
        if trigger.type == "files":
            return self._files(trigger)
        address = queues.parse(options["source"])
        reader = group(trigger.id)
        if address.scheme.endswith("+stream"):
            start = "0" if options["start"] == "oldest" else "$"
            return RedisStream(f"{address.server}/{address.space}", address.name, reader, start)
        if address.scheme.endswith("+list"):
            return RedisList(f"{address.server}/{address.space}", address.name, reader, options["end"])
        extra = EXTRAS[address.scheme]
        module = import_module(f"gateway.triggers.sources.{'sqs' if extra == 'aws' else extra}")
        return cast(Source, module.open_address(address, reader, options))

    def _files(self, trigger: Trigger) -> FilesSource:
        options = trigger.options
        address = places.parse(options["source"])
        if address.scheme == "file":
            place: Place = Folder(address.space, self._roots)
        else:
            place = import_module("gateway.triggers.sources.bucket").Bucket(address)
        wanted = Wanted(
            created="created" in options["events"],
            removed="removed" in options["events"],
            content=options["content"],
            poll_s=options["poll_s"] or POLL_S[address.scheme.partition("+")[0]],
            tries=options["tries"],
            newest=options["start"] == "newest",
        )
        return FilesSource(place, queues.public(options["source"]), self._own_url, trigger.id, wanted)
