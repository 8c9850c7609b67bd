"""One connection to the queue for one loop: a command out, its reply in. For what every call goes through.

redis-py connects (TLS, passwords, the way to the primary: primary.py) and names the errors; then its streams are set
aside, because a request through them costs three times what its bytes cost. Replies are parsed in C and wake whoever
asked. A line that was lost connects when it is next used; nothing is resent. Everything else that is said to Redis goes
through a pool.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as Overdue

from .primary import ELSEWHERE


class Script:
    """Lua that is run by its digest, and sent whole to a server that does not have it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.sha = hashlib.sha1(text, usedforsecurity=False).hexdigest()


class Line(asyncio.Protocol):
    """See the module. One command at a time; raises what redis-py raises."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._connection: Any = None  # redis-py's, which owns the socket
        self._transport: Any = None
        self._lost = True  # not connected, or not any more
        self._replies: Any = None  # hiredis.Reader
        self._reply: asyncio.Future[Any] | None = None  # whoever asked waits for it

    async def ask(self, *command: Any, patience_s: float | None = None) -> Any:
        """The reply, undecoded; waits for it `patience_s` at most."""
        if self._lost:
            await self._connect()
        loop = asyncio.get_running_loop()
        reply = self._reply = loop.create_future()
        timer = None if patience_s is None else loop.call_later(patience_s, self._overdue)
        try:
            self._transport.write(hiredis.pack_command(command))
            answer = await reply
        except BaseException as exc:
            await self.cut()  # what is still to come belongs to nobody
            if isinstance(exc, RuntimeError):  # what uvloop says of a transport that is being closed
                raise Disconnected(f"the connection was lost: {exc}") from exc
            raise
        finally:
            self._reply = None
            if timer is not None:
                timer.cancel()
        if isinstance(answer, Exception):
            if isinstance(answer, ELSEWHERE):
                await self._connection.leave()
                await self.cut()
            raise answer
        return answer

    async def run(
        self, script: Script, names: Sequence[Any], values: Iterable[Any], patience_s: float | None = None
    ) -> Any:
        """The script's result; `names` are its keys."""
        try:
            return await self.ask("EVALSHA", script.sha, len(names), *names, *values, patience_s=patience_s)
        except NoScriptError:
            return await self.ask("EVAL", script.text, len(names), *names, *values, patience_s=patience_s)

    async def held(self, replicas: int, wait_s: float, patience_s: float | None = None) -> int:
        """How many replicas hold what was written on this connection; waits `wait_s` at most until so many do.

        Raises when the connection is lost by now: of another one WAIT would say what is true and means nothing.
        """
        if self._lost:
            raise Disconnected("the connection was lost before replicas held what was written on it")
        return int(await self.ask("WAIT", replicas, int(wait_s * 1000), patience_s=patience_s))

    async def cut(self) -> None:
        """End the connection; whoever waits for an answer on it gets an error. Never fails."""
        connection, transport = self._connection, self._transport
        self._connection = self._transport = None
        self._lost = True
        self._tell(Disconnected("the connection was ended"))
        if connection is not None:
            transport.set_protocol(asyncio.Protocol())  # its end is no news of the next one
            transport.abort()
            await connection.disconnect(nowait=True)

    # --- within -------------------------------------------------------------------------------------------------
    async def _connect(self) -> None:
        await self.cut()  # what is left of one that was lost
        made: Any = self._pool.connection_class(**self._pool.connection_kwargs | {"socket_timeout": None})
        await made.connect()
        self._connection, self._transport, self._lost = made, made._writer.transport, False
        self._replies = hiredis.Reader(replyError=made._parser.parse_error)
        self._transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._replies.feed(data)
            reply = self._replies.gets()
        except hiredis.ProtocolError as exc:
            self.connection_lost(exc)
            return
        if reply is not False:  # False: there is more to come
            self._tell(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._tell(Disconnected(f"the connection was lost: {exc or 'closed by the server'}"))

    def _overdue(self) -> None:
        self._lost = True  # what is still to come belongs to nobody
        self._tell(Overdue("the server does not answer"))

    def _tell(self, reply: Any) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)
