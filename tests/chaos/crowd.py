"""A crowd of lean callers: each is one connection with one call in flight, and keeps nothing of it but its number.

What was promised goes to promises.py. A call that is refused, or whose connection ends, is followed by another one
with another number: nobody knows what became of the first, and the books hold it all the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

from tests.benchmarks.load import request
from tests.chaos.clients import PATH, PATIENCE_S, REFUSED
from tests.chaos.fleet import KEY
from tests.chaos.promises import ASYNC, SYNC, Promises

AGAIN_S = 0.05
RETRIES = 20  # the platform's own failures are to end no call before its time
PATHS = {SYNC: PATH, ASYNC: f"{PATH}?mode=async&retries={RETRIES}"}
PROMISED = {SYNC: 200, ASYNC: 202}


class Crowd:
    """Calls until so many are promised of each kind. While `held` no asynchronous ones are begun."""

    def __init__(self, urls: Sequence[str], promises: Promises, wanted: dict[int, int]) -> None:
        self._hosts = [(parts.hostname or "", parts.port or 80) for parts in map(urlsplit, urls)]
        self._turn = 0
        self._n = 0
        self.promises = promises
        self.wanted = wanted
        self.counts: Counter[str] = Counter()
        self.held = False

    async def run(self, callers: dict[int, int]) -> None:
        """With so many callers of each kind."""
        lines = [_Line(self, kind) for kind, count in callers.items() for _ in range(count)]
        await asyncio.gather(*(line.run() for line in lines))

    def host(self) -> tuple[str, int]:
        self._turn += 1
        return self._hosts[self._turn % len(self._hosts)]

    def number(self) -> int:
        self._n += 1
        return self._n

    def done(self, kind: int) -> bool:
        return self.promises.kept[kind] >= self.wanted[kind]

    def judge(self, kind: int, n: int, status: int, head: bytes, body: bytes) -> None:
        self.counts[f"{'async' if kind == ASYNC else 'sync'}: {status}"] += 1
        if status == PROMISED[kind]:
            if kind == SYNC and json.loads(body) != {"n": n}:
                self.promises.breach("got another one's answer", f"call {n}: {body!r}")
            at = head.index(b"jiffy-invocation-id: ") + 21
            self.promises.accept(kind, head[at : at + 36].decode(), n)
        elif status not in REFUSED:
            self.promises.breach("refused without need", f"call {n}: {status} {body!r}")


class _Line(asyncio.Protocol):
    """One caller."""

    def __init__(self, crowd: Crowd, kind: int) -> None:
        self._crowd = crowd
        self._kind = kind
        self._buffer = b""
        self._n = 0  # of the call that is in flight; 0: none is
        self._refused = False
        self._turn: asyncio.Future[None] | None = None  # over when the connection is, or there is a reason to pause

    async def run(self) -> None:
        loop, crowd = asyncio.get_running_loop(), self._crowd
        while not crowd.done(self._kind):
            if crowd.held and self._kind == ASYNC:
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                transport, _ = await loop.create_connection(lambda: self, *crowd.host())
            except OSError:
                crowd.counts["no connection"] += 1
                await asyncio.sleep(AGAIN_S)
                continue
            self._buffer = b""
            while not transport.is_closing() and not crowd.done(self._kind):
                self._turn = loop.create_future()
                self._next()
                began = time.monotonic()
                while not self._turn.done() and time.monotonic() - began < PATIENCE_S:
                    n = self._n
                    await asyncio.wait((self._turn,), timeout=PATIENCE_S)
                    began = began if n == self._n else time.monotonic()
                if not self._turn.done():
                    crowd.counts["no answer"] += 1
                    break
                await asyncio.sleep(AGAIN_S if self._refused or crowd.held else 0)
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def _next(self) -> None:
        self._n = self._crowd.number()
        self._refused = False
        self._transport.write(request("POST", PATHS[self._kind], b'{"n":%d}' % self._n, api_key=KEY))

    def data_received(self, data: bytes) -> None:
        crowd, kind = self._crowd, self._kind
        if not self._n:
            crowd.promises.breach("answered twice", f"after the answer there came {data[:80]!r}")
            self._transport.abort()
            return
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        at = head.find(b"content-length: ") + 16
        if not blank or len(body) < int(head[at : at + 20].partition(b"\r")[0]):
            return
        n, self._n, self._buffer = self._n, 0, b""
        status = int(head[9:12])
        crowd.judge(kind, n, status, head, body)
        self._refused = status != PROMISED[kind]
        if self._refused or crowd.done(kind) or (crowd.held and kind == ASYNC):
            self._over()
        else:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._n:
            self._crowd.counts["closed"] += 1
            self._n = 0
        self._over()

    def _over(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
