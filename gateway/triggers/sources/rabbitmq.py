"""RabbitMQ queues as sources, through aio-pika (the extra jiffy[rabbitmq]).

The broker pushes up to `most` messages and keeps them until they are acknowledged; what a closed connection held goes
back into the queue. A queue that is not there is made, as a durable quorum queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelClosed, ChannelInvalidStateError, ChannelNotFoundEntity
from aiormq.abc import FieldTable

from gateway.triggers.sources.base import Message, SourceError
from jiffy.contract.queues import Address, public

CONNECT_MAX_S = 5.0
PREFETCH_MAX = 65_535  # the protocol has two bytes for it
QUORUM: FieldTable = {"x-queue-type": "quorum"}


def open_address(address: Address, group: str, options: Mapping[str, Any]) -> RabbitQueue:
    vhost = "" if address.space == "/" else address.space
    return RabbitQueue(address.server, vhost, address.name)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError) as exc:
        raise SourceError(public(str(exc)) or type(exc).__name__) from exc


class RabbitQueue:
    def __init__(self, server: str, vhost: str, name: str) -> None:
        self._server = server
        self._vhost = vhost
        self._name = name
        self._inbox: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()  # None: the connection is gone
        self._connection: AbstractConnection | None = None
        self._out = 0

    async def open(self, most: int) -> None:
        with _translated():
            url = aio_pika.connection.make_url(self._server).with_path(f"/{self._vhost}" if self._vhost else "/")
            self._connection = await aio_pika.connect(url, timeout=CONNECT_MAX_S)
            channel = await self._declared(self._name)
            channel.close_callbacks.add(lambda *_: self._inbox.put_nowait(None))
            await channel.set_qos(prefetch_count=min(most, PREFETCH_MAX))
            self._channel = channel
            self._queue = await channel.get_queue(self._name, ensure=False)
            await self._queue.consume(self._came)

    async def _declared(self, name: str) -> AbstractChannel:
        """A channel on whose server the queue `name` is, whatever its kind."""
        assert self._connection is not None
        try:
            channel = await self._connection.channel()
            await channel.declare_queue(name, passive=True)
        except (ChannelNotFoundEntity, ChannelClosed):
            channel = await self._connection.channel()
            await channel.declare_queue(name, durable=True, arguments=QUORUM)
        return channel

    async def _came(self, message: AbstractIncomingMessage) -> None:
        self._out += 1
        self._inbox.put_nowait(message)

    async def take(self, most: int, wait_s: float) -> list[Message]:
        found: list[Message] = []
        try:
            async with asyncio.timeout(wait_s):
                found.append(_message(await self._inbox.get()))
        except TimeoutError:
            return []
        while len(found) < most and not self._inbox.empty():
            found.append(_message(self._inbox.get_nowait()))
        return found

    async def done(self, messages: Sequence[Message]) -> None:
        with _translated():
            for message in messages:
                await message.receipt.ack()
                self._out -= 1

    async def bury(self, message: Message, target: str, reason: str) -> None:
        was: AbstractIncomingMessage = message.receipt
        with _translated():
            channel = await self._declared(target)
            dead = aio_pika.Message(
                was.body,
                headers={**was.headers, "jiffy-reason": reason},
                content_type=was.content_type,
                message_id=was.message_id,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await channel.default_exchange.publish(dead, routing_key=target)  # comes back once the broker has it
            await channel.close()
        await self.done([message])

    async def lag(self) -> int:
        with _translated():
            assert self._connection is not None
            async with self._connection.channel() as channel:
                found = await channel.declare_queue(self._name, passive=True)
        return (found.declaration_result.message_count or 0) + self._out

    async def close(self) -> None:
        if self._connection is not None:
            with _translated():
                await self._connection.close()


def _message(found: AbstractIncomingMessage | None) -> Message:
    if found is None:
        raise SourceError("the connection was closed")
    sent_ms = int((found.timestamp.timestamp() if found.timestamp else time.time()) * 1000)
    count = found.headers.get("x-delivery-count")  # a quorum queue's own; of another's it is what the sender says
    redelivered = count if isinstance(count, int) and 0 <= count < 2**31 else int(bool(found.redelivered))
    return Message(
        id=found.message_id or str(found.delivery_tag),
        body=found.body.decode("utf-8", "replace"),
        tries=redelivered + 1,
        sent_ms=sent_ms,
        attributes={name: str(value) for name, value in found.headers.items() if not name.startswith("x-")},
        receipt=found,
    )
