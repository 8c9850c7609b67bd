"""/v1/triggers over HTTP: seen, paused, fired; and a schedule that fires through a whole gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jiffy.contract import triggers, wire
from jiffy.contract.messages import Revision
from tests.gateway.conftest import Invokers, Served
from tests.gateway.fake_invoker import publish

YEARLY = {"type": "schedule", "name": "yearly", "cron": "@yearly"}


async def deploy(served: Served, redis_url: str, *tables: dict[str, Any], number: int = 1) -> None:
    await publish(redis_url, "report", number, spec={"triggers": list(triggers.check(list(tables)))})
    await served.gateway.catalog.refresh("default", "report")


async def until(served: Served, path: str, true: Any) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            document: dict[str, Any] = (await served.http.get(path)).json()
            if true(document):
                return document
            await asyncio.sleep(0.02)


async def test_a_schedule_fires_by_itself_and_is_seen(served: Served, invoker: Invokers, redis_url: str) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, YEARLY, {"type": "schedule", "name": "often", "cron": "* * * * * *"})
        async with asyncio.timeout(5):
            await fake.seen.wait()
        assert fake.calls[0].trigger == "schedule often"
        assert wire.unpack(Revision, fake.calls[0].revision).spec["triggers"] == ()  # calls do without them
        (often,) = [
            one
            for one in (await until(served, "/v1/triggers", lambda d: d["triggers"][1]["fired"]))["triggers"]
            if one["name"] == "often"
        ]
        assert (often["function"], often["state"], often["options"]["cron"]) == ("report", "active", "* * * * * *")
        assert often["next"] > often["last"]
        metrics = (await served.http.get("/metrics")).text
        assert 'jiffy_trigger_events_total{function="report",trigger="often",event="fired"}' in metrics
        assert 'jiffy_trigger_lag_seconds{function="report",trigger="often"}' in metrics
        entries = (await served.http.get("/v1/triggers/report/often/logs")).json()["entries"]
        assert entries[0]["kind"] == "fired"
        assert entries[0]["invocation"] == fake.calls[0].invocation


async def test_pause_fire_and_resume(served: Served, invoker: Invokers, redis_url: str) -> None:
    async with invoker() as fake:
        await deploy(served, redis_url, YEARLY)
        path = "/v1/triggers/report/yearly"
        await until(served, path, lambda d: d["next"])
        paused = (await served.http.post(f"{path}/pause")).json()
        assert (paused["state"], paused["next"]) == ("paused", None)
        fired = await served.http.post(f"{path}/fire")
        assert fired.status_code == 202
        own = await served.http.post(f"{path}/fire", content=b'{"mine": true}')
        async with asyncio.timeout(5):
            while len(fake.calls) < 2:
                await asyncio.sleep(0.01)
        assert json.loads(fake.calls[0].payload)["detail-type"] == "Scheduled Event"
        assert json.loads(fake.calls[1].payload) == {"mine": True}
        assert [call.invocation for call in fake.calls] == [fired.json()["invocation"], own.json()["invocation"]]
        resumed = (await served.http.post(f"{path}/resume")).json()
        assert (resumed["state"], resumed["fired"]) == ("active", 2)
        assert resumed["next"].endswith("-01-01T00:00:00.000Z")


async def test_what_is_not_there_or_wrong_is_said(served: Served, redis_url: str) -> None:
    await deploy(served, redis_url, YEARLY)
    for path, status, part in (
        ("/v1/triggers/nobody/yearly", 404, "no function 'nobody'"),
        ("/v1/triggers/report/daily", 404, "it has yearly"),
        ("/v1/triggers/report/yearly/logs?limit=0", 400, "limit = '0'"),
    ):
        answer = await served.http.get(path)
        assert (answer.status_code, part in answer.json()["error"]["message"]) == (status, True), answer.text
    answer = await served.http.post("/v1/triggers/report/yearly/fire", content=b"{nonsense")
    assert (answer.status_code, "must be JSON" in answer.text) == (400, True)


async def test_a_schedule_that_another_release_stored_fails_alone(
    served: Served, invoker: Invokers, redis_url: str
) -> None:
    often = {"type": "schedule", "name": "often", "cron": "* * * * * *"}
    tables = [{**table} for table in triggers.check([YEARLY, often])]
    tables[0] |= {"timezone": "Mars/Olympus_Mons"}
    async with invoker() as fake:
        await publish(redis_url, "report", 1, spec={"triggers": tables})
        await served.gateway.catalog.refresh("default", "report")
        async with asyncio.timeout(5):
            await fake.seen.wait()
        listed = {one["name"]: one for one in (await served.http.get("/v1/triggers")).json()["triggers"]}
        assert (listed["yearly"]["state"], listed["yearly"]["next"]) == ("failing", None)
        assert "deploy" in listed["yearly"]["error"]
        assert listed["often"]["next"]


async def test_a_count_of_log_entries_has_a_bound_however_it_is_written(served: Served, redis_url: str) -> None:
    await deploy(served, redis_url, YEARLY)
    answer = await served.http.get("/v1/triggers/report/yearly/logs?limit=00000000199999999")
    assert answer.status_code == 400
