"""What the consumer needs of a queue. tests/triggers/test_sources.py is what every adapter must pass.

An adapter connects, hands out messages and forgets those that are done; it decides nothing. A message that was handed
out and is not done comes again after `open`, to whoever opens the queue next, with a higher `tries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `receipt` is the adapter's own way to find it again."""

    id: str  # unique within the queue
    body: str
    tries: int  # how many times it was handed out, this one included
    sent_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict)  # the sender's
    receipt: Any = None
    system: Mapping[str, str] = field(default_factory=dict)  # attributes of the queue's own


class SourceError(Exception):
    """The queue can't be used now; the message says why, without a password in it."""


class Source(Protocol):
    """One queue, opened by one consumer at a time. All methods raise SourceError when the queue is not there."""

    async def open(self, most: int) -> None:
        """Connect; at most `most` messages will be out at a time."""

    async def take(self, most: int, wait_s: float) -> list[Message]:
        """Up to `most` messages; waits up to `wait_s` for the first."""

    async def done(self, messages: Sequence[Message]) -> None:
        """These are dealt with."""

    async def bury(self, message: Message, target: str, reason: str) -> None:
        """Put a message on the queue `target`, with the reason, and be done with it."""

    async def lag(self) -> int:
        """How many messages wait, those that are out included."""

    async def close(self) -> None:
        """Disconnect. What is not done comes again."""
