"""NATS JetStream subjects as sources, through nats-py (the extra jiffy[nats]).

A durable pull consumer of the trigger's own. What is out is kept out by a sign of life; after a crash it comes again
when ACK_WAIT_S has passed, after `close` at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NoStreamResponseError

from gateway.triggers.sources.base import Message, SourceError
from jiffy.contract.queues import Address, public

CONNECT_MAX_S = 3.0
ACK_WAIT_S = 30.0

logging.getLogger("nats").setLevel(logging.CRITICAL)  # what it has to say comes as SourceError


def open_address(address: Address, group: str, options: Mapping[str, Any]) -> NatsSubject:
    return NatsSubject(address.server, address.space, address.name, group, newest=options["start"] == "newest")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (Error, OSError, TimeoutError) as exc:
        raise SourceError(public(str(exc)) or type(exc).__name__) from exc


class NatsSubject:
    def __init__(self, server: str, stream: str, subject: str, group: str, newest: bool) -> None:
        self._server = server
        self._stream = stream
        self._subject = subject
        self._group = group
        self._policy = DeliverPolicy.NEW if newest else DeliverPolicy.ALL
        self._client: Client | None = None
        self._out: dict[int, Msg] = {}  # by its place in the stream
        self._living: asyncio.Task[None] | None = None

    async def open(self, most: int) -> None:
        async def quiet(_: Exception) -> None: ...

        with _translated():
            async with asyncio.timeout(CONNECT_MAX_S):  # it would try again and again
                self._client = await nats.connect(
                    self._server, allow_reconnect=False, max_reconnect_attempts=0, error_cb=quiet
                )
            self._js = self._client.jetstream()
            self._pull = await self._js.pull_subscribe(
                self._subject,
                durable=self._group,
                stream=self._stream,
                config=ConsumerConfig(ack_wait=ACK_WAIT_S, max_ack_pending=most, deliver_policy=self._policy),
            )
        self._living = asyncio.create_task(self._live())

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            with contextlib.suppress(SourceError), _translated():
                for message in list(self._out.values()):
                    await message.in_progress()

    async def take(self, most: int, wait_s: float) -> list[Message]:
        if self._client is None or not self._client.is_connected:
            raise SourceError("the connection was closed")
        with _translated():
            try:
                found = await self._pull.fetch(most, timeout=max(wait_s, 0.01))
            except TimeoutError:  # the client's own is one, too
                return []
        self._out |= {message.metadata.sequence.stream: message for message in found}
        return [_message(message) for message in found]

    async def done(self, messages: Sequence[Message]) -> None:
        with _translated():
            for message in messages:
                await message.receipt.ack()
                self._out.pop(message.receipt.metadata.sequence.stream, None)
            assert self._client is not None
            await self._client.flush()  # an acknowledgement has no answer: it is done when the server has it

    async def bury(self, message: Message, target: str, reason: str) -> None:
        headers = {**(message.receipt.headers or {}), "jiffy-reason": reason.replace("\n", " ")[:500]}
        with _translated():
            try:
                await self._js.publish(target, message.receipt.data, headers=headers)
            except NoStreamResponseError:  # nobody keeps this subject yet
                await self._js.add_stream(name=f"{self._group}-dead", subjects=[target])
                await self._js.publish(target, message.receipt.data, headers=headers)
        await self.done([message])

    async def lag(self) -> int:
        with _translated():
            info = await self._pull.consumer_info()
        return int(info.num_pending or 0) + int(info.num_ack_pending or 0)

    async def close(self) -> None:
        if self._living is not None:
            self._living.cancel()
        if self._client is not None:
            with _translated():
                if self._client.is_connected:
                    for message in self._out.values():
                        await message.nak()
                    await self._client.flush()
                await self._client.close()


def _message(found: Msg) -> Message:
    place = found.metadata
    return Message(
        id=str(place.sequence.stream),
        body=found.data.decode("utf-8", "replace"),
        tries=int(place.num_delivered or 1),
        sent_ms=int(place.timestamp.timestamp() * 1000),
        attributes={name: str(value) for name, value in (found.headers or {}).items()},
        receipt=found,
    )
