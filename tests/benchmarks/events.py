"""How fast events become calls. ``python -m tests.benchmarks.events [--quick]``

Ten thousand schedules on one scheduler over a real queue; a Redis stream and a topic that call a function on a whole
platform with bubblewrap sandboxes. The load generator and everything else share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import urllib.request
from typing import Any

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from gateway.budgets.guard import Guard
from gateway.budgets.store import BudgetStore
from gateway.catalog import Catalog
from gateway.ledger.bookfile import shipped
from gateway.placement import Host, Placement
from gateway.store import Store
from gateway.triggers.calls import Calls
from gateway.triggers.metrics import TriggerMetrics
from gateway.triggers.scheduler import Scheduler
from gateway.triggers.store import TriggerStore
from jiffy.contract import keys, triggers, wire
from jiffy.contract.messages import Call
from tests import servers
from tests.gateway.fake_invoker import publish

from .figures import Figure
from .load import percentile
from .platform import Platform, free_port, platform

INVOKER = "inv-1"
COUNT = "def handler(event, context):\n    return None\n"
STAMP = "import time\n\n\ndef handler(event, context):\n    return time.time() - event['data']\n"
QUEUE = """handler = "count:handler"
max_instances = 8

[[functions.count.triggers]]
type = "queue"
source = "redis+stream://127.0.0.1:{port}/0/in"
batch_size = {size}
max_concurrency = {calls}
"""
TOPIC = """handler = "stamp:handler"

[[functions.stamp.triggers]]
type = "topic"
topic = "ping"
publish_to = "pong"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it, to see that it runs")
    part = 10 if parser.parse_args().quick else 1
    rows = [asyncio.run(schedules(10_000 // part, 60)), asyncio.run(schedules(10_000 // part, 1))]
    with servers.valkey() as server, platform("bwrap") as running:
        port = free_port()
        asyncio.run(_listen(server.url, port))
        for size, count, calls, aim in ((10, 100_000, 32, "20,000 messages/s"), (1, 20_000, 64, "5,000 messages/s")):
            rows.append(queue(running, port, size, count // part, calls, aim))
        rows.append(topic(running, 500 // part))
    table = Table("figure", "measured", "aim", "runs", title=f"{os.cpu_count()} processors")
    for row in rows:
        table.add_row(row.name, row.value, row.aim, row.runs)
    Console(width=150).print(table)


async def schedules(count: int, seconds: int) -> Figure:
    """How late ticks become calls, when `count` minutely schedules tick in so many different seconds of a minute."""
    with servers.valkey() as server:
        store, kept, placement = Store(server.url), TriggerStore(server.url), Placement()
        await store.beats()
        placement.update((Host(INVOKER, 1000, 0, True),))
        now_s = int(store.now_ms() / 1000)
        for n in range(count // 50):
            at = [(now_s + 12 + (n * 50 + k) % seconds) % 60 for k in range(50)]
            tables: list[dict[str, Any]] = [{"type": "schedule", "cron": f"{second} * * * * *"} for second in at]
            await publish(server.url, f"f{n}", spec={"triggers": list(triggers.check(tables))})
        catalog = Catalog(store)
        guard = Guard(BudgetStore(store.client), lambda: shipped().at(0), store.now_ms)
        scheduler = Scheduler(catalog, kept, Calls(placement, guard), TriggerMetrics(), store.now_ms)
        catalog.on_change.append(scheduler.changed)
        await catalog.resync()
        task = asyncio.create_task(scheduler.watch())
        began = time.perf_counter()
        while len(scheduler) < count:
            await asyncio.sleep(0.1)
        planned_s, planned_ms = time.perf_counter() - began, store.now_ms()
        await asyncio.sleep(80 if seconds > 1 else 20)
        task.cancel()
        async with Redis.from_url(server.url, protocol=2) as redis:
            entries = await redis.xrange(keys.calls(INVOKER))
        calls = [(int(entry.partition(b"-")[0]), wire.unpack(Call, fields[b"c"])) for entry, fields in entries]
        late = sorted(at_ms - due_ms for at_ms, call in calls if (due_ms := _due_ms(call)) >= planned_ms)
        await kept.close()
        await store.close()
    name = (
        f"{count:,} schedules, {'all in one second' if seconds == 1 else 'spread over a minute'}: how late, p50 / p99"
    )
    value = f"{percentile(late, 50):.0f} / {percentile(late, 99):.0f} ms"
    runs = f"{len(late):,} ticks, after {planned_s:.0f} s of planning"
    return Figure(name, value, "p99 under 50 ms" if seconds > 1 else "", runs)


def _due_ms(call: Call) -> float:
    tick = time.strptime(json.loads(call.payload)["time"], "%Y-%m-%dT%H:%M:%SZ")
    return (time.mktime(tick) - time.timezone) * 1000


def queue(running: Platform, port: int, size: int, count: int, calls: int, aim: str) -> Figure:
    """Messages a second, from the first that is taken to the last that is acknowledged."""
    running.deploy("count", {"count": QUEUE.format(port=port, size=size, calls=calls)}, {"count.py": COUNT})
    running.post("/v1/triggers/count/queue/pause")
    time.sleep(3)
    asyncio.run(_fill(port, count))
    running.post("/v1/triggers/count/queue/resume")
    rate = asyncio.run(_drained(port, count))
    return Figure(f"stream → function, {size} a call", f"{rate:,.0f} messages/s", aim, f"{count:,} messages")


async def _listen(url: str, port: int) -> None:
    async with Redis.from_url(url, protocol=2) as redis:
        await redis.config_set("port", port)


async def _fill(port: int, count: int) -> None:
    async with Redis(port=port, protocol=2) as redis:
        for start in range(0, count, 1000):
            pipe = redis.pipeline(transaction=False)
            for n in range(start, min(count, start + 1000)):
                pipe.xadd("in", {"body": f'{{"n":{n}}}'})
            await pipe.execute()


async def _drained(port: int, count: int) -> float:
    """Messages a second until none waits."""
    async with Redis(port=port, protocol=2) as redis:
        began = 0.0
        while True:
            (group,) = await redis.xinfo_groups("in")
            if not began and group["lag"] < count:
                began = time.perf_counter()
            elif began and not group["lag"] and not group["pending"]:
                return count / (time.perf_counter() - began)
            await asyncio.sleep(0.005)


def topic(running: Platform, count: int) -> Figure:
    """From the publisher's clock to the handler's: event published → function running."""
    running.deploy("stamp", {"stamp": TOPIC}, {"stamp.py": STAMP})
    time.sleep(2)
    for n in range(count):
        event = {"specversion": "1.0", "id": str(n), "source": "/bench", "type": "ping", "data": time.time()}
        headers = {"content-type": "application/cloudevents+json"}
        request = urllib.request.Request(f"{running.url}/v1/topics/ping/events", json.dumps(event).encode(), headers)
        urllib.request.urlopen(request, timeout=30).close()
        time.sleep(0.01)
    time.sleep(2)
    found = running.get("/v1/topics/pong/events?limit=1000")["events"]
    late = sorted(one["event"]["data"] * 1000 for one in found)
    value = f"{percentile(late, 50):.1f} / {percentile(late, 99):.1f} ms"
    return Figure("event published → function running, p50 / p99", value, "p50 3 ms", f"{len(late)} events")


if __name__ == "__main__":
    main()
