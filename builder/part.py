"""What a build begins with, what a runtime makes of it, and how its steps are told.

build.py tells the whole story; what is a runtime's own affair in it (base layer, dependencies) is a `Part`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder import image
from builder.layers import StoredLayer
from builder.lock import Lock
from jiffy.contract import limits
from jiffy.contract.messages import Process
from jiffy.contract.spec import FunctionSpec

WARNING = "warning"  # the step of what its author should know, though the build goes on


@dataclass(slots=True)
class Step:
    """One step while it runs; what it says at its end."""

    name: str  # BuildEvent.step
    text: str = ""
    cached: bool = False
    bytes: int = 0
    elapsed_ms: int = 0


Tell = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Source:
    """What one build begins with."""

    tenant: str
    spec: FunctionSpec
    digest: str  # of the archive
    archive: bytes
    folder: Path  # to work in
    code: Path  # where it is unpacked to
    locked: Lock | None


@dataclass(frozen=True, slots=True)
class Part:
    """What is a runtime's own affair in an image."""

    runtime: str
    layers: list[StoredLayer]  # base, deps
    code_bytes: int
    command: tuple[str, ...]  # what `docker run` starts
    locked: Lock | None
    base: str = image.WITH_AGENT  # what the base layer holds
    process: Process | None = None  # of an image that others made: then there is no code layer


@contextmanager
def timed(tell: Tell, name: str) -> Iterator[Step]:
    """A step that is told at its end, with how long it took."""
    one = Step(name)
    began = time.monotonic()
    yield one
    one.elapsed_ms = round((time.monotonic() - began) * 1000)
    tell(one)


def size(count: int) -> str:
    """Bytes for people."""
    if count < 1024:
        return f"{count} bytes"
    return f"{count / limits.MIB:.1f} MiB" if count >= limits.MIB else f"{count / 1024:.1f} KiB"
