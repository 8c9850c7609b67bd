"""What Redis raises, in the words of a source: for queues, topics and files alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from gateway.triggers.sources.base import SourceError


@contextmanager
def translated() -> Iterator[None]:
    """Raises SourceError instead."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as exc:
        raise SourceError(str(exc) or type(exc).__name__) from exc
