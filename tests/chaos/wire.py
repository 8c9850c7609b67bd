"""A wire to Redis that can be cut or stalled: a unix socket that passes on what comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

CHUNK = 256 * 1024


class Wire:
    """`url` is what the process at this end is given."""

    def __init__(self, path: Path, redis: Path) -> None:
        self._path = path
        self._redis = redis
        self.url = f"unix://{path}"
        self.enter: list[str] = []  # what stands before the command of the process at this end
        self._cut = False
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._connected, self._path)

    async def close(self) -> None:
        self._server.close()
        self.cut(True)
        self.stall(False)
        await asyncio.gather(*self._tasks)

    def cut(self, on: bool) -> None:
        self._cut = on
        if on:
            for writer in self._writers:
                writer.transport.abort()

    def lead_to(self, redis: Path) -> None:
        """New connections go there; those that are open stay."""
        self._redis = redis

    def stall(self, on: bool) -> None:
        (self._open.clear if on else self._open.set)()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                if not self._cut:
                    their_reader, their_writer = await asyncio.open_unix_connection(self._redis)
                    self._writers.add(their_writer)
                    try:
                        await _first(self._pass(reader, their_writer), self._pass(their_reader, writer))
                    finally:
                        self._writers.discard(their_writer)
                        their_writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open.wait()
                writer.write(data)
                await writer.drain()


async def _first(*works: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Straight:
    """No wire at all, for who counts calls by the second: what passes them on costs as much as a gateway."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.enter: list[str] = []

    async def start(self) -> None:
        """There is nothing to start."""

    async def close(self) -> None:
        """There is nothing to close."""

    def cut(self, on: bool) -> None:
        raise NotImplementedError("a process without a wire can only be killed or paused")

    stall = cut
