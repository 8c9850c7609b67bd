"""What only SQS and S3 have, against a server that speaks as they do."""

from __future__ import annotations

import asyncio
import json
import secrets

from gateway.triggers.consumer import Held
from gateway.triggers.shapes import QueueShape
from gateway.triggers.sources.sqs import SqsQueue
from jiffy.contract import queues
from tests.triggers.brokers import ACCOUNT, amazon


def address(url: str, name: str) -> queues.Address:
    return queues.parse(f"sqs+http://key:secret@{url.partition('://')[2]}/{ACCOUNT}/{name}")


async def test_what_runs_for_long_stays_invisible_to_others(amazon_url: str) -> None:
    name = secrets.token_hex(4)
    async with amazon("sqs", amazon_url) as client:
        queue = (await client.create_queue(QueueName=name))["QueueUrl"]
        await client.send_message(QueueUrl=queue, MessageBody="long")
        source = SqsQueue(address(amazon_url, name), visible_s=3)
        await source.open(10)
        (message,) = await source.take(1, 20)
        await asyncio.sleep(4.5)  # by now it would be visible
        assert "Messages" not in await client.receive_message(QueueUrl=queue)
        await source.done([message])
        await source.close()


async def test_a_fifo_queues_groups_stay_in_order_and_functions_see_them(amazon_url: str) -> None:
    name = f"{secrets.token_hex(4)}.fifo"
    dead = queues.dead_letter(address(amazon_url, name))
    async with amazon("sqs", amazon_url) as client:
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        queue = (await client.create_queue(QueueName=name, Attributes=attributes))["QueueUrl"]
        for group, body in (("a", "a1"), ("a", "a2"), ("b", "b1")):
            await client.send_message(QueueUrl=queue, MessageBody=body, MessageGroupId=group)
        source = SqsQueue(address(amazon_url, name))
        await source.open(10)
        (first,) = await source.take(1, 20)
        (other,) = await source.take(1, 20)
        assert (first.body, other.body) == ("a1", "b1")
        await source.bury(first, dead, "it failed")
        (second,) = await source.take(1, 20)
        record = json.loads(QueueShape(name).event([Held(second, 1)], 0))["Records"][0]
        assert (record["body"], record["attributes"]["MessageGroupId"]) == ("a2", "a")
        await source.close()
        where = (await client.get_queue_url(QueueName=dead))["QueueUrl"]
        (buried,) = (await client.receive_message(QueueUrl=where, MessageAttributeNames=["All"]))["Messages"]
        assert (buried["Body"], buried["MessageAttributes"]["jiffy-reason"]["StringValue"]) == ("a1", "it failed")
