"""Puts messages into the queue as a shop would: python send.py [URL] TEXT…"""

import asyncio
import sys

import aio_pika


async def main(url: str, texts: list[str]) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for text in texts:
            await channel.default_exchange.publish(aio_pika.Message(text.encode()), routing_key="orders")


if __name__ == "__main__":
    given = sys.argv[1:]
    url = given.pop(0) if given and given[0].startswith("amqp") else "amqp://guest:guest@127.0.0.1:5672/"
    asyncio.run(main(url, given))
