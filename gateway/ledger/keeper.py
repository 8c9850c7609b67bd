"""The ledger as processes know it: settles for as long as it is open, or at once before a question, and answers that.

Owns the tasks, threads and connections; what happens in them is in settle.py (read that first) and questions.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from jiffy.contract.errors import JiffyError, Unavailable
from jiffy.contract.meter import Tariff

from . import advice, anomalies, comparison, database, questions, retention, shelf, statements
from .advice import Advice
from .anomalies import Anomaly
from .comparison import Comparison
from .count import Count, count
from .feed import Feed, RedisFeed
from .hours import HOUR_MS
from .lines import Attempt, Sum
from .prices import PriceBook, PriceList
from .questions import Answer, By, Question
from .settle import STEP_ROWS, Settler

TURN_S = 1.0  # how far the ledger lags behind the calls; each turn with records costs one flush to disk
LEASE_MS = 3000  # a process that died is replaced after three turns
ANOMALIES_S = 900.0  # how often costs are looked at for what is not usual: some milliseconds
FORGET_S, FORGET_PAUSE_S = 3600.0, 0.05  # old calls are removed once an hour, and never all at once
ASK_BUDGET_S = 2.0  # a question waits for settling no longer than this, about 150,000 records

T = TypeVar("T")

log = logging.getLogger("jiffy.ledger")


async def open_ledger(
    url: str,
    redis_url: str,
    now_ms: Callable[[], int] | None = None,
    price_list: PriceList | None = None,
    keep_days: int = 0,
) -> Ledger:
    """The ledger in the database at `url`, fed by the Redis at `redis_url`. Settles nothing until it is asked or kept.

    `now_ms` is called from threads; it says the epoch on the Redis server's clock (None: as settling hears it). The
    books of `price_list` are published; without one, a new ledger gets those that are shipped. Single calls are removed
    after `keep_days` (0: never). Raises Unavailable, and Conflict when a price book that has been in force was edited.
    """
    feed = RedisFeed(redis_url)
    try:
        engine = await asyncio.to_thread(database.connect, url)
        try:
            known = await asyncio.to_thread(shelf.open_shelf, engine, price_list, feed.waiting)
        except JiffyError:
            engine.dispose()
            raise
    except JiffyError:
        feed.close()
        raise
    return Ledger(engine, feed, known, now_ms or feed.now_ms, keep_days)


class Ledger:
    """Settles usage records and answers questions about them. Made by `open_ledger`."""

    def __init__(
        self, engine: Engine, feed: Feed, price_list: PriceList, now_ms: Callable[[], int], keep_days: int = 0
    ) -> None:
        self.now_ms = now_ms
        self.price_list = price_list
        self._engine = engine
        self._feed = feed
        self._settler = Settler(engine, feed, price_list, now_ms)
        self._keep_days = keep_days
        self._turn = asyncio.Lock()  # one settling step at a time in this process
        self._name = uuid.uuid4().hex
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._heard: list[Callable[[Tariff], None]] = []

    def follow(self) -> None:
        """Hear of new price books from now on: what a gateway needs."""
        self._tasks.append(asyncio.create_task(self._follow_books(), name="ledger"))

    def keep(self) -> None:
        """Settle, and forget what is old, from now on: the work of the ledger's own process (__main__.py)."""
        self.follow()
        for work in (self._settle_for_ever(), self._forget_old_calls(), self._warn_of_anomalies()):
            self._tasks.append(asyncio.create_task(work, name="ledger"))

    async def close(self) -> None:
        """End the background work, in order: a step that runs is finished."""
        self._closing.set()
        await asyncio.gather(*self._tasks)
        async with self._turn:
            await asyncio.to_thread(self._engine.dispose)
            self._feed.close()

    # --- prices -----------------------------------------------------------------------------------------------

    def tell_tariff(self, hear: Callable[[Tariff], None]) -> None:
        """Call `hear` with the tariff in force: now, and within TURN_S of every change."""
        self._heard.append(hear)
        hear(self.price_list.at(self.now_ms()).tariff)

    async def publish(self, price_list: PriceList) -> None:
        """Add books. Raises Conflict when one is known already and another."""
        await asyncio.to_thread(shelf.publish, self._engine, price_list)
        await self._read_books()

    async def _read_books(self) -> None:
        price_list = await asyncio.to_thread(shelf.read, self._engine)
        self.price_list = self._settler.prices = price_list
        tariff = price_list.at(self.now_ms()).tariff
        for hear in self._heard:
            hear(tariff)

    async def _follow_books(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(JiffyError):  # the database is away: settling says so
                await self._read_books()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), TURN_S)

    # --- retention --------------------------------------------------------------------------------------------

    async def forget_old_calls(self) -> int:
        """Removes the single calls that are older than is kept; returns how many. Raises Unavailable."""
        removed, before_ms = 0, retention.horizon_ms(self.now_ms(), self._keep_days)
        while self._keep_days and not self._closing.is_set():
            async with self._turn:
                some = await asyncio.to_thread(retention.forget, self._engine, before_ms)
            removed += some
            if not some:
                break
            await asyncio.sleep(FORGET_PAUSE_S)
        return removed

    async def _forget_old_calls(self) -> None:
        while self._keep_days and not self._closing.is_set():
            with contextlib.suppress(
                JiffyError
            ):  # the database is away, or Redis, whose clock decides: settling says so
                await asyncio.to_thread(self._feed.lease, self._name, LEASE_MS)
                await self.forget_old_calls()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), FORGET_S)

    async def _where_kept(self, question: Question) -> Question:
        """The same question where calls were removed: single ones since then only, sums of whole hours before it."""
        kept_ms = await asyncio.to_thread(retention.kept_since, self._engine)
        since, until = question.since_ms, question.until_ms
        if question.by is By.CALL:
            return (
                question if question.month is not None else replace(question, since_ms=max(since or 0, kept_ms) or None)
            )
        if since is not None and since < kept_ms:
            since = since // HOUR_MS * HOUR_MS
        if until is not None and until < kept_ms:
            until = -(-until // HOUR_MS) * HOUR_MS
        return replace(question, since_ms=since, until_ms=until)

    # --- settling and asking ----------------------------------------------------------------------------------

    async def settle_now(self, budget_s: float = ASK_BUDGET_S) -> int:
        """Settle all that was metered before now. Returns how much is still waiting where that takes longer."""
        give_up = time.monotonic() + budget_s
        while await self._step() == STEP_ROWS:
            if time.monotonic() > give_up:
                return await asyncio.to_thread(self._feed.waiting)
        return 0

    async def count(self) -> Count:
        """How many attempts it has. Raises Unavailable."""
        return await asyncio.to_thread(count, self._engine)

    async def ask(self, question: Question, with_total: bool = True) -> Answer:
        """One page of a bill with its total, of what is settled. Raises Unavailable."""
        question = await self._where_kept(question)
        return await asyncio.to_thread(questions.answer, self._engine, question, with_total)

    async def pages(self, question: Question) -> AsyncIterator[tuple[Attempt, ...] | tuple[Sum, ...]]:
        """All rows, page by page of `question.limit`; no page is held open while its reader is slow."""
        while True:
            page = await self.ask(question, with_total=False)
            yield page.rows
            if page.next is None:
                return
            question = replace(question, after=page.next)

    async def invocation(self, invocation_id: str, tenant: str = "default") -> list[Attempt]:
        """All attempts at one invocation, in order; none when it is unknown."""
        await self.settle_now()
        return await asyncio.to_thread(questions.invocation, self._engine, tenant, invocation_id)

    # --- months -----------------------------------------------------------------------------------------------

    async def statement(self, month: int, tenant: str) -> dict[str, Any]:
        """The statement of a month: as it was closed, or as it stands now. Raises Unavailable."""
        return await asyncio.to_thread(statements.statement, self._engine, tenant, month, self.now_ms())

    async def statements(self, tenant: str) -> list[dict[str, Any]]:
        """What is closed, the newest first."""
        return await asyncio.to_thread(statements.all_closed, self._engine, tenant)

    async def close_month(self, month: int, tenant: str) -> dict[str, Any]:
        """Freezes a month, numbers its statement. Raises Conflict before it is over, Unavailable behind a backlog."""
        if await self.settle_now():
            raise Unavailable("calls still wait to be settled; close the month in a moment", retry_after_s=2)
        return await asyncio.to_thread(statements.close, self._engine, tenant, month, self.now_ms())

    async def advice(self, question: Question) -> list[Advice]:
        """What would be cheaper, of the calls that match."""
        return await asyncio.to_thread(self._reading, advice.of, question)

    async def anomalies(self, tenant: str | None) -> list[Anomaly]:
        """Functions whose daily cost left its usual range. Raises Unavailable."""
        now_ms = self.now_ms()
        question = Question(tenant, By.DAY, since_ms=anomalies.since_ms(now_ms))
        look = partial(anomalies.of, today=now_ms // anomalies.DAY_MS)
        return await asyncio.to_thread(self._reading, look, question)

    async def _warn_of_anomalies(self) -> None:
        told: set[tuple[str, str, int]] = set()
        while not self._closing.is_set():
            with contextlib.suppress(JiffyError):  # the database is away: settling says so
                for one in await self.anomalies(None):
                    if (one.tenant, one.function, one.day) not in told:
                        log.warning("%s", json.dumps({"type": "cost.unusual", "tenant": one.tenant} | one.to_dict()))
                        told.add((one.tenant, one.function, one.day))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), ANOMALIES_S)

    async def newest_revision(self, tenant: str, function: str, since_ms: int) -> tuple[int, int, Sum] | None:
        """(number, MB, sum) of the newest revision that was called and charged since then."""
        question = Question(tenant, By.TOTAL, function=function, since_ms=since_ms)
        return await asyncio.to_thread(self._reading, advice.newest_revision, question)

    def _reading(self, ask: Callable[[Connection, Question, Mapping[int, PriceBook]], T], question: Question) -> T:
        with database.reading(self._engine) as connection:
            return ask(connection, question, shelf.read_books(connection))

    async def compare(self, question: Question, book: PriceBook) -> Comparison:
        """The calls that match, each function's under another price book."""
        return await asyncio.to_thread(comparison.compare, self._engine, question, book)

    async def _step(self) -> int:
        async with self._turn:
            step = await asyncio.to_thread(self._settler.step)
        if step.rejected:
            log.error("%d usage records could not be read; they are in the table `rejected`", step.rejected)
        return step.read

    async def _settle_for_ever(self) -> None:
        trouble = ""
        while not self._closing.is_set():
            try:
                if await asyncio.to_thread(self._feed.lease, self._name, LEASE_MS):
                    while await self._step() == STEP_ROWS and not self._closing.is_set():
                        await asyncio.to_thread(self._feed.lease, self._name, LEASE_MS)
                if trouble:
                    log.warning("the ledger settles again")
                trouble = ""
            except JiffyError as exc:
                if exc.message != trouble:  # once, not once a second
                    log.error("%s; usage records wait in Redis until it does", exc.message)
                trouble = exc.message
            except Exception:
                log.exception("settling failed; usage records wait in Redis")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), TURN_S)
