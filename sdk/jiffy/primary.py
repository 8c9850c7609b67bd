"""Connections to the queue, for every process: all of them lead to the primary, wherever it is now.

What a URL may be, and what is asked of whom, is contract/address.py's. One server is connected to as it is. With
Sentinel or a cluster each new connection first asks a node where the primary is, so after a failover it is enough that
the old connections end: they do when one of them is told that it leads to a replica (READONLY) or to a node that has
our keys no more (MOVED), and wherever nobody answers. Who meets that asks again later: nothing is resent here, because
a step that was sent twice could be done twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, ReadOnlyError, RedisError
from redis.retry import Retry as BlockingRetry

from .contract import address, outage
from .contract.address import Address
from .contract.errors import Unavailable

T = TypeVar("T")

ASK_MAX_S = 1.0  # a node that says nothing about the primary for so long: the next one is asked
ELSEWHERE = (ReadOnlyError, MovedError)  # what is answered by one who is not the primary of our keys


def client(url: str, **options: Any) -> Redis:
    """A pool of connections as `Redis`; `aclose` ends them all. `options` are redis-py's. Raises Unavailable."""
    where = address.parse(url)
    pool = _made(ConnectionPool, where, {"protocol": 2, "retry": Retry(NoBackoff(), 0)} | options)
    pool.connection_class = _leading(pool, where)
    return Redis.from_pool(pool)


def blocking(url: str, **options: Any) -> redis.Redis:
    """The same for those that may block. Raises Unavailable."""
    where = address.parse(url)
    pool = _made(redis.ConnectionPool, where, {"protocol": 2, "retry": BlockingRetry(NoBackoff(), 0)} | options)
    pool.connection_class = _leading_blocking(pool, where)
    return redis.Redis.from_pool(pool)


async def places(url: str) -> tuple[tuple[str, int], ...]:
    """Host and port of all servers behind a URL, as they are now; none for a socket file. Raises Unavailable."""
    where = address.parse(url)
    if not where.nodes:
        return where.places()
    pool = _made(ConnectionPool, where, {})
    try:
        members = await _Nodes(where, pool.connection_kwargs).ask(where.census, where.members)
    except RedisError as exc:
        raise outage.error(exc, answered=False) from exc
    return tuple(sorted({*where.places(), *members}))


def _made(kind: Any, where: Address, options: dict[str, Any]) -> Any:
    try:
        return kind.from_url(where.server, **options)
    except ValueError as exc:
        raise Unavailable(f"not the URL of a Redis: {exc}") from exc


class _Nodes:
    """Who is asked where the primary is: the first that answers. `doubt`: then begin with another one."""

    def __init__(self, where: Address, options: dict[str, Any]) -> None:
        self._where = where
        self._nodes = deque(where.nodes)
        tls = {key: value for key, value in options.items() if key.startswith("ssl")}
        self._options: dict[str, Any] = tls | {
            "username": where.username,
            "password": where.password,
            "protocol": 2,
            "socket_timeout": ASK_MAX_S,
            "socket_connect_timeout": ASK_MAX_S,
            "ssl": where.server.startswith("rediss"),
        }

    def doubt(self) -> None:
        self._nodes.rotate(-1)

    async def ask(self, commands: Sequence[Sequence[str]], read: Callable[[list[Any], str], T]) -> T:
        """What `read` makes of the replies. Raises ConnectionError of redis-py's, as a connection does that fails."""
        said: list[str] = []
        for host, port in tuple(self._nodes):
            node: Any = Redis(host=host, port=port, retry=Retry(NoBackoff(), 0), **self._options)
            try:
                return read([await node.execute_command(*command) for command in commands], host)
            except (RedisError, OSError, Unavailable) as exc:
                said.append(f"{host}:{port}: {exc}")
            finally:
                await node.aclose()
        raise _unknown(said)

    async def primary(self) -> tuple[str, int]:
        return await self.ask([self._where.question], lambda replies, host: self._where.primary(replies[0], host))

    def primary_now(self) -> tuple[str, int]:
        """The same, blocking."""
        said: list[str] = []
        for host, port in tuple(self._nodes):
            node: Any = redis.Redis(host=host, port=port, retry=BlockingRetry(NoBackoff(), 0), **self._options)
            with node:
                try:
                    return self._where.primary(node.execute_command(*self._where.question), host)
                except (RedisError, OSError, Unavailable) as exc:
                    said.append(f"{host}:{port}: {exc}")
        raise _unknown(said)


def _unknown(said: list[str]) -> redis.ConnectionError:
    return redis.ConnectionError(f"nobody says where the primary is: {'; '.join(said)}")


def _check(role: Any, connection: Any) -> None:
    """Sentinel's guidelines for clients: what it names may have been demoted a moment ago."""
    if role[0] != b"master":
        raise redis.ConnectionError(f"{connection.host}:{connection.port} is a {role[0].decode()}")


def _leading(pool: Any, where: Address) -> type[AbstractConnection]:
    """The pool's class of connections, such that each leads to the primary; all end when one does no more.

    Behind one address too (a virtual one, a proxy) the old primary may still answer, so nobody would ever connect to
    the new one; and who only reads would not even notice.
    """
    nodes = _Nodes(where, pool.connection_kwargs)

    class Leading(pool.connection_class):  # type: ignore[misc]  # the pool chose it by the URL
        async def _connect(self) -> None:
            if where.nodes:
                self.host, self.port = await nodes.primary()
            try:
                await super()._connect()
            except BaseException:
                nodes.doubt()
                raise

        async def on_connect_check_health(self, check_health: bool = True) -> None:
            await super().on_connect_check_health(check_health=check_health)
            if where.service:
                await self.send_command("ROLE", check_health=False)
                try:
                    _check(await self.read_response(), self)
                except RedisError:
                    nodes.doubt()
                    raise

        async def _send_packed_command(self, command: Any) -> None:
            try:
                await super()._send_packed_command(command)
            except RuntimeError as exc:  # uvloop's word for a connection that was closed a moment ago
                raise redis.ConnectionError(f"the connection ended: {exc}") from exc

        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except ELSEWHERE:
                await self.leave()
                raise

        async def leave(self) -> None:
            """It was told that this is not the primary of our keys."""
            nodes.doubt()
            await self.disconnect(nowait=True)
            await pool.disconnect(inuse_connections=True)

    return Leading


def _leading_blocking(pool: Any, where: Address) -> Any:
    nodes = _Nodes(where, pool.connection_kwargs)

    class Leading(pool.connection_class):  # type: ignore[misc]  # the pool chose it by the URL
        def _connect(self) -> Any:
            if where.nodes:
                self.host, self.port = nodes.primary_now()
            try:
                return super()._connect()
            except BaseException:
                nodes.doubt()
                raise

        def on_connect_check_health(self, check_health: bool = True) -> None:
            super().on_connect_check_health(check_health=check_health)
            if where.service:
                self.send_command("ROLE", check_health=False)
                try:
                    _check(self.read_response(), self)
                except RedisError:
                    nodes.doubt()
                    raise

        def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return super().read_response(*args, **options)
            except ELSEWHERE:
                nodes.doubt()
                self.disconnect()
                pool.disconnect()
                raise

    return Leading
