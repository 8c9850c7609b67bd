"""Callers of every kind, and what each of them was promised.

synchronous    called once; an answer must be its own, and no answer promises nothing
asynchronous   called once; a 202 promises one end
delayed        the same, later
cancelling     takes a delayed one back: what it was told is so
idempotent     asks again and again with its key, of any gateway, until it has an answer: one call, one answer
publishing     an event to a topic; a 202 promises that its subscriber hears of it, at least once
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.fleet import FUNCTION, KEY, TOPIC

PATIENCE_S = 25.0  # beyond a call's wait, its timeout and a gateway's grace
AGAIN_S = 0.1
PATH = f"/v1/functions/{FUNCTION}/invocations"
EVENT = {"specversion": "1.0", "source": "/chaos", "type": "news"}
REFUSED = (429, 502, 503, 504)


@dataclass
class Promised:
    """What was promised, and what was broken already."""

    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)  # asynchronous: id → event
    answered: dict[str, dict[str, Any]] = field(default_factory=dict)  # synchronous, with 200: id → event
    keyed: dict[str, str] = field(default_factory=dict)  # idempotency key → id
    cancelled: dict[str, bool] = field(default_factory=dict)  # accepted, and taken back for sure, or perhaps: id → sure
    published: set[int] = field(default_factory=set)
    crashes: bool = False  # an engine is restarted: what runs in its sandboxes then counts as its function's crash
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Clients:
    """All callers of one run. Each has its own seeded chance."""

    def __init__(self, seed: int, urls: Sequence[str], promised: Promised) -> None:
        self._seed = seed
        self._urls = urls
        self.promised = promised
        self._n = 0
        self.ended = asyncio.Event()

    async def run(self, each: int, calls_max: int) -> None:
        """`each` callers of every kind, until `ended` is set or so many calls were made."""
        key = {"x-api-key": KEY}
        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False, limits=httpx.Limits(), headers=key) as http:
            kinds = (self._sync, self._async, self._idempotent, self._delayed, self._cancelling, self._publishing)
            callers: list[Coroutine[Any, Any, None]] = []
            for kind in kinds:
                for _ in range(each):
                    chance = random.Random(f"{self._seed} {len(callers)}")
                    callers.append(self._call(kind, http, chance, calls_max))
            await asyncio.gather(*callers)

    async def _call(self, kind: Any, http: httpx.AsyncClient, chance: random.Random, calls_max: int) -> None:
        while not self.ended.is_set() and self._n < calls_max:
            self._n += 1
            sleep_s = chance.choice([0] * 12 + [0.02, 0.2, 1.0, 2.5])
            await kind(http, chance, {"n": self._n, "s": sleep_s, "fail": chance.random() < 0.03})

    async def _post(self, http: httpx.AsyncClient, chance: random.Random, event: Any, **more: Any) -> Any:
        """A call through any gateway. None: the connection failed, or was closed without an answer."""
        return await self._ask(http, "POST", chance.choice(self._urls) + PATH, json=event, **more)

    async def _ask(self, http: httpx.AsyncClient, method: str, url: str, **more: Any) -> httpx.Response | None:
        try:
            return await http.request(method, url, **more)
        except httpx.TransportError:
            await asyncio.sleep(AGAIN_S)
            return None

    def _judge(self, event: dict[str, Any], answer: httpx.Response, who: str) -> bool:
        """Is it an answer to this event? What is neither that nor a refusal is a broken promise."""
        if answer.status_code == 200:
            if self.promised.crashes and answer.headers["jiffy-outcome"] == "crash":
                self.promised.counts[f"{who}: crashed"] += 1
                return False
            failed = "jiffy-function-error" in answer.headers
            right = answer.json()["errorMessage"] == str(event["n"]) if failed else answer.json() == {"n": event["n"]}
            if not right or failed != event["fail"]:
                self.promised.broken.append(f"{who} call {event['n']} got another one's answer: {answer.text}")
        elif answer.status_code not in REFUSED:
            self.promised.broken.append(f"{who} call {event['n']}: {answer.status_code} {answer.text}")
        return answer.status_code == 200

    async def _sync(self, http: httpx.AsyncClient, chance: random.Random, event: dict[str, Any]) -> None:
        answer = await self._post(http, chance, event)
        if answer is None:
            self.promised.counts["sync: closed"] += 1
            return
        self.promised.counts[f"sync: {answer.status_code}"] += 1
        if self._judge(event, answer, "synchronous"):
            self.promised.answered[answer.headers["jiffy-invocation-id"]] = event
        elif answer.status_code == 503:
            await asyncio.sleep(AGAIN_S)

    async def _async(self, http: httpx.AsyncClient, chance: random.Random, event: dict[str, Any]) -> None:
        await self._accept("async", http, chance, event)

    async def _accept(
        self, kind: str, http: httpx.AsyncClient, chance: random.Random, event: dict[str, Any], **query: str
    ) -> str:
        """The id of a call that was accepted; "" when it was not, or nobody knows."""
        answer = await self._post(http, chance, event, params={"mode": "async"} | query)
        if answer is None:
            self.promised.counts[f"{kind}: closed"] += 1
            return ""
        self.promised.counts[f"{kind}: {answer.status_code}"] += 1
        if answer.status_code == 202:
            invocation: str = answer.json()["invocation"]
            self.promised.accepted[invocation] = event
            return invocation
        if answer.status_code in REFUSED:
            await asyncio.sleep(AGAIN_S)
        else:
            self.promised.broken.append(f"asynchronous call {event['n']}: {answer.status_code} {answer.text}")
        return ""

    async def _delayed(self, http: httpx.AsyncClient, chance: random.Random, event: dict[str, Any]) -> None:
        await self._accept("delayed", http, chance, event, delay=f"{chance.choice([0.1, 1, 4]):g}")
        await asyncio.sleep(AGAIN_S)

    async def _cancelling(self, http: httpx.AsyncClient, chance: random.Random, event: dict[str, Any]) -> None:
        delay = f"{chance.choice([0, 0.1, 2]):g}"
        invocation = await self._accept("cancelling", http, chance, event, delay=delay)
        if not invocation:
            return
        answer = await self._ask(http, "DELETE", f"{chance.choice(self._urls)}/v1/invocations/{invocation}")
        status = answer.status_code if answer is not None else 0
        self.promised.counts[f"cancelling: {status or 'closed'}"] += 1
        if status == 200:
            self.promised.cancelled[invocation] = True
        elif status in (0, *REFUSED):
            self.promised.cancelled[invocation] = False
        elif status != 409:  # it runs, or has ended
            self.promised.broken.append(f"cancelling {invocation}: {status} {answer.text if answer else ''}")

    async def _publishing(self, http: httpx.AsyncClient, chance: random.Random, event: dict[str, Any]) -> None:
        n = event["n"]
        body = EVENT | {"id": str(n), "data": {"n": n}}
        kind = {"content-type": "application/cloudevents+json"}
        url = f"{chance.choice(self._urls)}/v1/topics/{TOPIC}/events"
        answer = await self._ask(http, "POST", url, json=body, headers=kind)
        self.promised.counts[f"publishing: {answer.status_code if answer else 'closed'}"] += 1
        if answer is not None and answer.status_code == 202:
            self.promised.published.add(n)
        elif answer is not None and answer.status_code not in REFUSED:
            self.promised.broken.append(f"publishing {n}: {answer.status_code} {answer.text}")
        await asyncio.sleep(2 * AGAIN_S)

    async def _idempotent(self, http: httpx.AsyncClient, chance: random.Random, event: dict[str, Any]) -> None:
        """Then asks once more, of any gateway: the answer must be the first one's."""
        key = f"{self._seed}-{event['n']}"
        ids: set[str] = set()
        answers = 0
        while answers < 2 and not (self.ended.is_set() and not answers):
            answer = await self._post(http, chance, event, headers={"idempotency-key": key})
            if answer is None or answer.status_code in (429, 503, 504) or _perhaps_unbegun(answer):
                self.promised.counts["idempotent: asked again"] += 1
                await asyncio.sleep(AGAIN_S)
                continue
            self._judge(event, answer, "idempotent")
            answers += 1
            ids.update(answer.headers.get_list("jiffy-invocation-id"))
        self.promised.counts["idempotent: answered"] += answers > 0
        if len(ids) > 1:
            self.promised.broken.append(f"key {key} was executed as {sorted(ids)}")
        if ids:
            self.promised.keyed[key] = ids.pop()


def _perhaps_unbegun(answer: httpx.Response) -> bool:
    """A failure of the platform's that is nobody's answer yet: if the call had not begun, the next one is another."""
    return answer.status_code == 502 and "idempotent-replayed" not in answer.headers
