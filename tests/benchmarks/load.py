"""The load generator: a closed loop of keep-alive connections that finishes every call it began.

It is written on bare protocols because it shares the processors with what it measures; its own CPU time is part of
every result. One caller is one connection with one call in flight.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from dataclasses import dataclass
from typing import cast


def request(
    method: str, path: str, body: bytes = b"", content_type: str = "application/json", api_key: str = ""
) -> bytes:
    """The bytes of one HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    key = f"\r\nx-api-key: {api_key}" if api_key else ""
    return f"{head}{key}\r\n\r\n".encode() + body


@dataclass(frozen=True, slots=True)
class Run:
    """What one closed loop measured."""

    latencies_ms: tuple[float, ...]  # sorted
    seconds: float
    failed: int  # answers that were not 200
    generator_cpu_s: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def generator_share(self) -> float:
        """The load generator's part of one processor."""
        return self.generator_cpu_s / self.seconds

    def percentile(self, p: float) -> float:
        """Milliseconds that `p` percent of the calls stayed under."""
        return percentile(self.latencies_ms, p)


def percentile(ordered: tuple[float, ...] | list[float], p: float) -> float:
    """The nearest-rank percentile of sorted values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def median(values: list[float]) -> float:
    return statistics.median(values)


class _Caller(asyncio.Protocol):
    """One connection: sends the next request as soon as the answer to the last one is complete."""

    def __init__(self, requests: list[bytes], latencies: list[float], done: asyncio.Future[None]) -> None:
        self._todo = requests  # shared by all callers
        self._latencies = latencies
        self._done = done
        self._buffer = bytearray()
        self._sent = 0.0
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._next()

    def _next(self) -> None:
        if not self._todo:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(self._todo.pop())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self._buffer.lower().find(b"content-length:", 0, end)
        if at < 0:
            raise ValueError("the answer has no content-length")
        length = int(self._buffer[at + 15 : self._buffer.find(b"\r", at)])
        if len(self._buffer) < end + 4 + length:
            return
        self._latencies.append((time.perf_counter() - self._sent) * 1000)
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self.failed += 1
        self._buffer.clear()
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def closed_loop(host: str, port: int, requests: list[bytes], callers: int) -> Run:
    """Send all `requests` over `callers` connections, each waiting for its answer before its next request."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    todo = list(reversed(requests))
    cpu = _cpu()
    began = time.perf_counter()
    protocols = []
    ends = []
    for _ in range(callers):
        done = loop.create_future()
        _, protocol = await loop.create_connection(lambda done=done: _Caller(todo, latencies, done), host, port)  # type: ignore[misc]
        protocols.append(protocol)
        ends.append(done)
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - began
    if len(latencies) != len(requests):
        raise RuntimeError(f"{len(requests) - len(latencies)} of {len(requests)} calls were not answered")
    return Run(tuple(sorted(latencies)), seconds, sum(p.failed for p in protocols), _cpu() - cpu)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
