"""Sentinel and Cluster: failovers in the middle of a load, and what is told only once a replica holds it.

Sentinel's new primary and a slot's new owner are found by every process without a restart: the gateway with its
ledger, triggers and asynchronous calls, and an invoker. Only the sandboxes are twins.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from jiffy import primary, queue
from jiffy.contract import address, keys, wire
from jiffy.contract.messages import InvocationRecord
from tests import topologies
from tests.durable.conftest import joined
from tests.topologies import Group

pytestmark = pytest.mark.redis
ROUND = 15  # calls of a kind, before the failover and after it
PATIENCE_S = 3.0


@pytest.fixture(params=[topologies.sentinel, topologies.cluster], ids=["sentinel", "cluster"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    made: AbstractContextManager[Group] = request.param()
    with made as group:
        keys.share(address.parse(group.url).name)
        yield group
        keys.share("")


class Load:
    """Callers who call until they are told to stop, and what they were promised."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._ended = False
        self.told: Counter[str] = Counter()
        self.accepted: dict[str, int] = {}  # invocation → what it was called with

    async def run(self) -> None:
        await asyncio.gather(self._sync(), self._async(), self._async(), self._keyed())

    def end(self) -> None:
        self._ended = True

    async def some_more(self, kind: str) -> None:
        """Until ROUND more went well."""
        enough = self.told[kind] + ROUND
        async with asyncio.timeout(30):
            while self.told[kind] < enough:
                await asyncio.sleep(0.02)

    async def _post(self, event: dict[str, int], **options: Any) -> httpx.Response | None:
        """None: it took too long. A synchronous call that is lost with the old primary is told so at its deadline."""
        try:
            answer = await self._http.post("/v1/functions/hello/invocations", json=event, timeout=PATIENCE_S, **options)
        except httpx.TimeoutException:
            return None
        assert answer.status_code in (200, 202, 502, 503, 504), answer.text
        if answer.status_code > 500:
            await asyncio.sleep(0.05)
        return answer

    async def _sync(self) -> None:
        n = 0
        while not self._ended:
            n += 1
            answer = await self._post({"n": n})
            if answer is not None and answer.status_code == 200:
                self.told["sync"] += 1
                assert answer.json() == {"n": n}

    async def _async(self) -> None:
        n = 0
        while not self._ended:
            n += 1
            answer = await self._post({"n": n}, params={"mode": "async"})
            if answer is not None and answer.status_code == 202:
                self.told["async"] += 1
                self.accepted[answer.json()["invocation"]] = n

    async def _keyed(self) -> None:
        """Each key is asked with until there is an answer, and then once more."""
        n = 0
        while not self._ended:
            n += 1
            ids: list[str] = []
            while len(ids) < 2:
                answer = await self._post({"n": n}, headers={"idempotency-key": f"key-{n}"})
                if answer is not None and answer.status_code == 200:
                    ids.append(answer.headers["jiffy-invocation-id"])
            assert ids[0] == ids[1], "one key is one call"
            self.told["keyed"] += 1


async def test_a_failover_in_the_middle_of_a_load_loses_and_doubles_nothing(group: Group, data_dir: Path) -> None:
    async with joined(f"{group.url}?replicas=1", data_dir) as pair:
        await pair.deploy()
        load = Load(pair.http)
        calling = asyncio.create_task(load.run())
        await load.some_more("async")
        await asyncio.to_thread(group.fail_over)
        await asyncio.gather(*(load.some_more(kind) for kind in ("async", "sync", "keyed")))
        load.end()
        await asyncio.wait_for(calling, 30)
        async with asyncio.timeout(30):
            while await pair.backlog():
                await asyncio.sleep(0.05)
        for invocation, n in load.accepted.items():
            packed = await pair.redis.get(keys.invocation(invocation))
            record = wire.unpack(InvocationRecord, packed)
            assert record.answer is not None and json.loads(record.answer.payload) == {"n": n}, record
        found = (await pair.http.get("/v1/audit")).json()
        assert [check for check in found["checks"] if not check["balanced"]] == []
        assert found["counters"]["default"]["accepted"] >= len(load.accepted)


async def test_what_no_replica_holds_is_neither_told_as_accepted_nor_settled(group: Group, data_dir: Path) -> None:
    async with joined(f"{group.url}?replicas=1", data_dir) as pair:
        await pair.deploy()
        followers = await asyncio.to_thread(group.replicas)
        for server in followers:
            server.signal(signal.SIGSTOP)
        answer = await pair.http.post("/v1/functions/hello/invocations?mode=async", json={})
        async with asyncio.timeout(10):
            while not await pair.redis.xlen(keys.USAGE):
                await asyncio.sleep(0.02)  # it was accepted all the same, and has ended
        assert (await pair.http.get("/v1/audit")).status_code == 503, "what may be lost is not settled"
        for server in followers:
            server.signal(signal.SIGCONT)
        assert answer.status_code == 503 and "0 of its replicas" in answer.text, answer.text
        async with asyncio.timeout(10):
            while (audit := await pair.http.get("/v1/audit")).status_code != 200:
                await asyncio.sleep(0.05)  # once a replica holds its end
        assert audit.json()["balanced"] and audit.json()["counters"]["default"]["done"] == 1
        await pair.end(await pair.call())


async def test_all_servers_are_known_that_functions_must_not_reach(group: Group) -> None:
    found = {port for _, port in await primary.places(group.url)}
    assert found >= {server.port for server in group.servers}
    assert found >= {port for _, port in address.parse(group.url).nodes}


def test_the_supervisor_sees_what_is_there(group: Group) -> None:
    assert queue.trouble(group.url) == ""
    if "cluster" in group.url:
        one = f"redis://127.0.0.1:{group.servers[0].port}"
        keys.share("")
        assert "redis+cluster://" in queue.trouble(one)
    else:
        assert "'other'" in queue.trouble(group.url.replace("/main", "/other"))
