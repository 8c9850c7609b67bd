"""A process that holds messages of a queue until it is killed: as a gateway that dies while its calls run.

    python -m tests.triggers.holder OWN_URL TABLE COUNT

TABLE is a trigger as contract.triggers.check returns it, as JSON. Of COUNT messages that it takes, the first is done
with; then it prints "held".
"""

from __future__ import annotations

import asyncio
import json
import sys

from gateway.triggers.sources.base import Message
from gateway.triggers.sources.doors import Doors
from gateway.triggers.trigger import Trigger, TriggerId


async def hold(own_url: str, table: str, count: int) -> None:
    options = json.loads(table)
    source = Doors(own_url).source(Trigger(TriggerId("default", "f", "q"), options["type"], options))
    await source.open(count)
    found: list[Message] = []
    while len(found) < count:
        found += await source.take(count - len(found), 1.0)
    await source.done(found[:1])
    print("held", flush=True)
    await asyncio.Event().wait()


asyncio.run(hold(sys.argv[1], sys.argv[2], int(sys.argv[3])))
