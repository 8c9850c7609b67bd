"""One declared trigger of a live revision, and what is kept about it. Plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gateway.catalog import Function
from jiffy.contract import queues, triggers

SERVED = ("queue", "topic", "files")  # types whose messages one gateway at a time takes


class TriggerId(NamedTuple):
    """Names a trigger for good; its settings may change with every revision."""

    tenant: str
    function: str
    name: str

    def __str__(self) -> str:
        return f"{self.function}/{self.name}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """`options` are complete: every key of contract.triggers.KINDS[type] is there."""

    id: TriggerId
    type: str
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What usage records and metrics call it, as "route GET /x" is a route."""
        return f"{self.type} {self.id.name}"


@dataclass(frozen=True, slots=True)
class TriggerState:
    """What Redis knows of a trigger."""

    paused: bool
    error: str  # queues: why it is not served now
    since_ms: int  # first seen; 0: never
    tick_ms: int  # schedules: the last tick that was dealt with
    last_ms: int  # when it last called its function; 0: never
    fired: int
    skipped: int
    failed: int
    dead: int
    lag: int  # queues: messages that wait, as last seen


def declared(function: Function | None) -> tuple[Trigger, ...]:
    """The triggers of a function's live revision, but for those that are routes (edge.py).

    Another release may have stored them: what it did not know has its default, and a type that we do not know is
    passed over.
    """
    if function is None:
        return ()
    found = []
    for table in function.revision.spec.get("triggers", ()):
        options = json.loads(json.dumps(table))  # lists, as they were checked: from the wire they come as tuples
        if options.get("type") == "http":
            continue
        try:
            options = triggers.completed(options)
        except (LookupError, TypeError, ValueError):
            continue
        name, kind = options.pop("name"), options.pop("type")
        found.append(Trigger(TriggerId(function.tenant, function.name, name), kind, options))
    return tuple(found)


def public(options: Mapping[str, Any]) -> dict[str, Any]:
    """A trigger's options without passwords, for whoever asks."""
    return {key: queues.public(value) if key == "source" else value for key, value in options.items()}
