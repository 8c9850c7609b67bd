"""What a broker of MQTT may do that no broker should."""

from __future__ import annotations

import asyncio

import pytest

from gateway.triggers.sources.base import SourceError
from gateway.triggers.sources.mqtt import MqttTopic
from jiffy.contract import queues
from tests.triggers.brokers import hostile_mqtt


async def test_a_topic_that_is_no_text_is_a_message_like_others() -> None:
    async with hostile_mqtt(b"in/\xff", 1) as address:
        source = MqttTopic(queues.parse(address), "jiffy-f--q")
        await source.open(10)
        (message,) = await source.take(10, 20.0)
        assert (message.attributes["topic"], message.body) == ("in/\ufffd", "1")
        await source.done([message])
        await source.close()


async def test_a_broker_that_sends_more_than_it_may_is_left() -> None:
    async with hostile_mqtt(b"in", 5000) as address:
        source = MqttTopic(queues.parse(address), "jiffy-f--q")
        await source.open(10)
        with pytest.raises(SourceError, match="receive maximum"):
            async with asyncio.timeout(20):
                while len(await source.take(1, 1.0)) < 2:
                    assert await source.lag() <= 11  # and word that it ended
        await source.close()
