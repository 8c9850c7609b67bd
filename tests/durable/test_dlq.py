"""The dead-letter queue: what it says, what it gives another life, what it forgets."""

from __future__ import annotations

from typing import Any

import pytest

from invoker.sandbox import Reply
from jiffy.contract import keys
from tests.durable.conftest import FAILED, Pair

pytestmark = pytest.mark.redis


async def dead(pair: Pair, name: str = "hello", event: Any = None) -> str:
    invocation = await pair.call(name, event, retries=0)
    assert (await pair.end(invocation))["state"] == "dead"
    return invocation


@pytest.fixture
async def failing(pair: Pair) -> Pair:
    for name in ("hello", "other"):
        await pair.deploy(name)
    pair.host.world.function = lambda _: FAILED
    return pair


async def test_a_letter_says_what_died_of_what(failing: Pair) -> None:
    invocation = await dead(failing, event={"order": 4711})
    [letter] = (await failing.http.get("/v1/dlq")).json()["letters"]
    assert letter["invocation"] == invocation and letter["function"] == "hello" and letter["revision"] == 1
    assert (letter["reason"], letter["attempts"], letter["outcome"]) == ("retries_exhausted", 1, "error")
    assert (letter["error_message"], letter["trigger"], letter["payload_bytes"]) == ("no", "invoke", 14)
    assert letter["accepted_ms"] <= letter["dead_ms"]
    whole = (await failing.http.get(f"/v1/dlq/{invocation}")).json()
    assert whole["payload"] == {"order": 4711}
    assert whole["error"] == {"errorType": "ValueError", "errorMessage": "no"}


async def test_metrics_count_what_became_of_asynchronous_calls(failing: Pair) -> None:
    invocation = await dead(failing)
    await failing.call("hello", delay=60)
    await failing.http.delete(f"/v1/dlq/{invocation}")
    text = (await failing.http.get("/metrics")).text
    for event, n in (("accepted", 2), ("dead", 1), ("purged", 1), ("done", 0)):
        assert f'jiffy_async_events_total{{tenant="default",event="{event}"}} {n}\n' in text
    assert 'jiffy_async_backlog{tenant="default"} 1\n' in text and 'jiffy_dead_letters{tenant="default"} 0\n' in text


async def test_letters_come_newest_first_in_pages_by_function(failing: Pair) -> None:
    letters = [await dead(failing, ("hello", "other")[n % 2]) for n in range(5)]
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = (await failing.http.get("/v1/dlq", params={"limit": 2, **({"after": after} if after else {})})).json()
        seen += [letter["invocation"] for letter in page["letters"]]
        after = page["next"]
    assert seen == letters[::-1]
    others = (await failing.http.get("/v1/dlq", params={"function": "other"})).json()["letters"]
    assert [letter["invocation"] for letter in others] == [letters[3], letters[1]]


async def test_a_replayed_call_keeps_its_id_and_runs_what_is_live(failing: Pair) -> None:
    invocation = await dead(failing, event={"n": 1})
    await failing.deploy("hello", 2)
    failing.host.world.function = lambda payload: Reply(True, payload, 10)
    assert (await failing.http.post(f"/v1/dlq/{invocation}/replay")).json() == {"replayed": 1}
    record = await failing.end(invocation, "done")
    assert (record["attempts"], record["revision"], record["result"]) == (2, 2, {"n": 1})
    assert (await failing.http.get("/v1/dlq")).json() == {"letters": [], "next": None}
    assert [(a.attempt, a.revision) for a in await failing.attempts(invocation)] == [(1, 1), (2, 2)]
    tally = await failing.tally()
    assert tally == {"accepted": 1, "dead": 1, "replayed": 1, "done": 1, "bytes": 0, "dead_bytes": 0}
    assert (await failing.http.post(f"/v1/dlq/{invocation}/replay")).status_code == 404, "it is dead no more"


async def test_a_replayed_call_has_its_retries_anew_and_may_die_again(failing: Pair) -> None:
    await failing.deploy("hello", 2, retries=1)
    invocation = await dead(failing)
    await failing.http.post(f"/v1/dlq/{invocation}/replay")
    await failing.end(invocation, "dead")
    [letter] = (await failing.http.get("/v1/dlq")).json()["letters"]
    assert letter["attempts"] == 3


async def test_a_functions_letters_are_replayed_together(failing: Pair) -> None:
    mine = [await dead(failing, "hello", {"n": n}) for n in range(3)]
    other = await dead(failing, "other")
    failing.host.world.function = lambda payload: Reply(True, payload, 10)
    assert (await failing.http.post("/v1/dlq/replay", params={"function": "hello"})).json() == {"replayed": 3}
    for n, invocation in enumerate(mine):
        assert (await failing.end(invocation, "done"))["result"] == {"n": n}
    assert [left["invocation"] for left in (await failing.http.get("/v1/dlq")).json()["letters"]] == [other]


async def test_letters_of_a_function_that_is_gone_stay(failing: Pair) -> None:
    invocation = await dead(failing, "other")
    await failing.redis.hdel(keys.function("default", "other"), "live")
    await failing.served.gateway.catalog.refresh("default", "other")
    refused = await failing.http.post(f"/v1/dlq/{invocation}/replay")
    assert refused.status_code == 404 and "no function 'other'" in refused.json()["error"]["message"]
    assert (await failing.http.post("/v1/dlq/replay")).json() == {"replayed": 0}
    assert (await failing.http.get(f"/v1/dlq/{invocation}")).status_code == 200


async def test_letters_are_purged_one_by_one_and_all_at_once(failing: Pair) -> None:
    letters = [await dead(failing, ("hello", "other")[n % 2]) for n in range(4)]
    assert (await failing.http.delete(f"/v1/dlq/{letters[0]}")).status_code == 204
    assert (await failing.http.delete(f"/v1/dlq/{letters[0]}")).status_code == 404
    assert (await failing.http.delete("/v1/dlq", params={"function": "other"})).json() == {"purged": 2}
    assert (await failing.http.delete("/v1/dlq")).json() == {"purged": 1}
    assert (await failing.tally()) | {} == {"accepted": 4, "dead": 4, "purged": 4, "bytes": 0, "dead_bytes": 0}
    for key in (keys.dead, keys.dead_letters, keys.dead_calls):
        assert not await failing.redis.exists(key("default"))
    assert (await failing.show(letters[1]))["state"] == "dead", "its record stays readable"


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"after": "x"}, {"after": "x.y"}])
async def test_questions_that_make_no_sense_are_400(pair: Pair, query: dict[str, str]) -> None:
    assert (await pair.http.get("/v1/dlq", params=query)).status_code == 400
    assert (await pair.http.get("/v1/dlq/nonsense")).status_code == 404
