"""Topics of an MQTT 5 broker as sources, through paho-mqtt (the extra jiffy[mqtt]), which runs a thread of its own.

A persistent session of the trigger's own: the broker keeps for it what is published with QoS 1 or 2 while nobody is
connected, for SESSION_S, and hands out no more than `most` that are not acknowledged (MQTT 5's receive maximum). What
was not acknowledged comes again with the next connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.triggers.sources.base import Message, SourceError
from jiffy.contract.queues import Address, public

CONNECT_MAX_S = 5.0
REPLY_MAX_S = 10.0
SESSION_S = 7 * 24 * 3600
RECEIVE_MAX = 65_535  # the protocol has two bytes for it
PORTS = {"mqtt": 1883, "mqtts": 8883}


def open_address(address: Address, group: str, options: Mapping[str, Any]) -> MqttTopic:
    # Another filter is another session, or the broker would go on to send what the one before asked for.
    return MqttTopic(address, f"{group}-{sha256(address.name.encode()).hexdigest()[:8]}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError, ValueError, RuntimeError) as exc:
        raise SourceError(public(str(exc)) or type(exc).__name__) from exc


class MqttTopic:
    """`group` is the session's client id."""

    def __init__(self, address: Address, group: str) -> None:
        self._where = urlsplit(address.server)
        self._filter = address.name
        self._group = group
        self._inbox: asyncio.Queue[MQTTMessage | None] = asyncio.Queue()  # None: the connection is gone
        self._replies: dict[str, asyncio.Future[str]] = {}  # what is waited for → why it failed, or ""
        self._out: set[str] = set()
        self._owed = 0  # acknowledgements
        self._why = ""  # the connection is gone
        self._client: Client | None = None

    async def open(self, most: int) -> None:
        self._most = most
        client = self._client = self._made()
        connecting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connecting.SessionExpiryInterval = SESSION_S
        connecting.ReceiveMaximum = min(most, RECEIVE_MAX)
        host, port = self._where.hostname or "", self._where.port or PORTS[self._where.scheme]
        with _translated():
            await asyncio.to_thread(client.connect, host, port, 60, clean_start=False, properties=connecting)
            connected = self._reply("connect")
            client.loop_start()
            await self._told(connected, f"{host} does not let us in")
            # What the broker retains comes when the subscription is new, not each time that we connect again.
            once = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
            subscribed = self._reply("subscribe")
            client.subscribe(self._filter, options=once)
            await self._told(subscribed, f"{self._filter} can't be subscribed to")

    def _made(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._group,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_MAX_S
        if self._where.username:
            client.username_pw_set(unquote(self._where.username), unquote(self._where.password or ""))
        if self._where.scheme == "mqtts":
            client.tls_set()
        loop = asyncio.get_running_loop()

        def here(tell: Callable[..., None], *what: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(tell, *what)

        def failed(codes: Any) -> str:
            return "; ".join(str(code) for code in codes if code.is_failure)

        client.on_connect = lambda _c, _u, _f, code, _p: here(self._settle, "connect", failed([code]))
        client.on_subscribe = lambda _c, _u, _mid, codes, _p: here(self._settle, "subscribe", failed(codes))
        client.on_publish = lambda _c, _u, mid, code, _p: here(self._settle, f"publish {mid}", failed([code]))
        client.on_message = lambda _c, _u, message: here(self._came, message)
        client.on_disconnect = lambda _c, _u, _f, code, _p: here(self._lost, str(code))
        return client

    # --- what the thread tells ------------------------------------------------------------------------------

    def _reply(self, what: str) -> asyncio.Future[str]:
        return self._replies.setdefault(what, asyncio.get_running_loop().create_future())

    async def _told(self, reply: asyncio.Future[str], trouble: str) -> None:
        async with asyncio.timeout(REPLY_MAX_S):
            why = await reply
        if why:
            raise SourceError(f"{trouble}: {why}")

    def _settle(self, what: str, why: str) -> None:
        reply = self._reply(what)
        if not reply.done():
            reply.set_result(why)

    def _came(self, message: MQTTMessage) -> None:
        if not message.qos:
            if self._inbox.qsize() < self._most:  # who sends with QoS 0 takes it that some are lost
                self._inbox.put_nowait(message)
            return
        self._owed += 1
        if self._owed <= self._most:
            self._inbox.put_nowait(message)
        elif self._owed == self._most + 1 and self._client is not None:
            self._lost("the broker does not mind the receive maximum")
            self._client.disconnect()

    def _lost(self, why: str) -> None:
        self._why = self._why or why
        for what in list(self._replies):
            self._settle(what, why)
        self._inbox.put_nowait(None)

    # --- a source -------------------------------------------------------------------------------------------

    async def take(self, most: int, wait_s: float) -> list[Message]:
        found: list[Message] = []
        try:
            async with asyncio.timeout(wait_s):
                found.append(self._read(await self._inbox.get()))
        except TimeoutError:
            return []
        while len(found) < most and not self._inbox.empty():
            found.append(self._read(self._inbox.get_nowait()))
        self._out |= {message.id for message in found}
        return found

    def _read(self, found: MQTTMessage | None) -> Message:
        if found is None:
            raise SourceError(f"the connection was closed: {self._why}")
        return _message(found)

    async def done(self, messages: Sequence[Message]) -> None:
        assert self._client is not None
        for message in messages:
            if code := self._client.ack(message.receipt.mid, message.receipt.qos):
                raise SourceError(f"the connection was closed: {code.name}")
            self._owed -= bool(message.receipt.qos)
            self._out.discard(message.id)
        with _translated():
            async with asyncio.timeout(REPLY_MAX_S):
                while self._client.want_write():  # noqa: ASYNC110 - the thread sends them, and tells nobody when
                    await asyncio.sleep(0.001)

    async def bury(self, message: Message, target: str, reason: str) -> None:
        assert self._client is not None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        said = "".join(letter if letter.isprintable() else " " for letter in reason)[:500]
        properties.UserProperty = [*_said(message.receipt), ("jiffy-reason", said)]
        with _translated():
            told = self._client.publish(target, message.receipt.payload, qos=1, properties=properties)
            await self._told(self._reply(f"publish {told.mid}"), f"{target} takes no messages")
            self._replies.pop(f"publish {told.mid}")
        await self.done([message])

    async def lag(self) -> int:
        """Those that are here: MQTT does not tell how many more the broker has."""
        return self._inbox.qsize() + len(self._out)

    async def close(self) -> None:
        if self._client is not None:
            with _translated():
                self._client.disconnect()
                await asyncio.to_thread(self._client.loop_stop)


def _said(message: MQTTMessage) -> list[tuple[str, str]]:
    """The sender's own properties."""
    return list(getattr(message.properties, "UserProperty", None) or ())


def _topic(found: MQTTMessage) -> str:
    try:
        return found.topic
    except UnicodeDecodeError as exc:  # as with a body that is no text
        return exc.object.decode("utf-8", "replace")


def _message(found: MQTTMessage) -> Message:
    now_ms, topic = int(time.time() * 1000), _topic(found)
    # Packet ids come again and again; what is sent with QoS 0 has none.
    content = sha256(topic.encode() + b"\0" + found.payload).hexdigest()[:16]
    return Message(
        id=f"{found.mid}-{content}" if found.qos else f"{time.monotonic_ns()}-{content}",
        body=found.payload.decode("utf-8", "replace"),
        tries=2 if found.dup else 1,
        sent_ms=now_ms,
        attributes={**dict(_said(found)), "topic": topic},
        receipt=found,
    )
