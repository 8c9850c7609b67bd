"""The ledger as the gateway knows it: settles in the background, settles at once before a question, answers it.

Owns the tasks, threads and connections; what happens in them is in settle.py (read that first) and questions.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from sqlalchemy import Engine, select

from jiffy.contract.errors import JiffyError, PlatformError

from . import prices, questions, tables
from .feed import Feed, RedisFeed
from .lines import Attempt, Sum
from .prices import PriceBook, PriceList
from .questions import Answer, Question
from .settle import STEP_ROWS, Settler

TURN_S = 1.0  # how far the ledger lags behind the calls; each turn with records costs one flush to disk
LEASE_MS = 3000  # a gateway that died is replaced after three turns
ASK_BUDGET_S = 2.0  # a question waits for settling no longer than this, about 150,000 records

log = logging.getLogger("jiffy.ledger")


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def open_ledger(
    url: str, redis_url: str, now_ms: Callable[[], int] = wall_ms, price_list: PriceList | None = None
) -> Ledger:
    """The ledger in the database at `url`, fed by the Redis at `redis_url`. Settles nothing until `start()`.

    `now_ms` is called from threads; it says the epoch on the Redis server's clock. Raises Unavailable, and
    PlatformError when a price book that has been in force was edited.
    """
    price_list = price_list or prices.shipped()
    feed = RedisFeed(redis_url)
    try:
        engine = await asyncio.to_thread(tables.connect, url)
        try:
            await asyncio.to_thread(publish, engine, price_list)
        except JiffyError:
            engine.dispose()
            raise
    except JiffyError:
        feed.close()
        raise
    return Ledger(engine, feed, price_list, now_ms)


def publish(engine: Engine, price_list: PriceList) -> None:
    """Write the books that the ledger does not know yet. Raises PlatformError when a known one has changed."""
    with tables.writing(engine) as connection:
        tables.put(connection, tables.price_books, [_book_row(book) for book in price_list.books])
        known = questions.read_books(connection)
        for book in price_list.books:
            if known[book.version] != book:
                raise PlatformError(
                    f"price book {book.version} is not what attempts were priced by; "
                    "leave published books as they are and add a new version"
                )
        if any(row != price_list.currency for row in connection.scalars(select(tables.price_books.c.currency))):
            raise PlatformError(f"the ledger is not kept in {price_list.currency}")


class Ledger:
    """Settles usage records and answers questions about them. Made by `open_ledger`."""

    def __init__(self, engine: Engine, feed: Feed, price_list: PriceList, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.price_list = price_list
        self._engine = engine
        self._feed = feed
        self._settler = Settler(engine, feed, price_list, now_ms)
        self._turn = asyncio.Lock()  # one settling step at a time in this process
        self._name = uuid.uuid4().hex
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Settle in the background from now on."""
        self._task = asyncio.create_task(self._settle_for_ever(), name="ledger")

    async def close(self) -> None:
        """End the background work, in order: a step that runs is finished."""
        self._closing.set()
        if self._task is not None:
            await self._task
        async with self._turn:
            await asyncio.to_thread(self._engine.dispose)
            self._feed.close()

    async def settle_now(self, budget_s: float = ASK_BUDGET_S) -> int:
        """Settle all that was metered before now. Returns how much is still waiting where that takes longer."""
        give_up = time.monotonic() + budget_s
        while await self._step() == STEP_ROWS:
            if time.monotonic() > give_up:
                return await asyncio.to_thread(self._feed.waiting)
        return 0

    async def ask(self, question: Question) -> Answer:
        """One page of a bill with its total, of what is settled. Raises Unavailable."""
        return await asyncio.to_thread(questions.answer, self._engine, question)

    async def pages(self, question: Question) -> AsyncIterator[tuple[Attempt, ...] | tuple[Sum, ...]]:
        """All rows, page by page of `question.limit`; no page is held open while its reader is slow."""
        while True:
            page = await self.ask(question)
            yield page.rows
            if page.next is None:
                return
            question = replace(question, after=page.next)

    async def invocation(self, invocation_id: str, tenant: str = "default") -> list[Attempt]:
        """All attempts at one invocation, in order; none when it is unknown."""
        await self.settle_now()
        return await asyncio.to_thread(questions.invocation, self._engine, tenant, invocation_id)

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


def _book_row(book: PriceBook) -> dict[str, object]:
    return {
        "version": book.version,
        "effective_from_ms": book.effective_from_ms,
        "currency": book.currency,
        "per_gb_second": format(book.per_gb_second, "f"),
        "per_call": format(book.per_call, "f"),
        "step_ms": book.step_ms,
    }
