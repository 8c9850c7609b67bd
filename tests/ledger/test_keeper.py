"""The ledger beside a gateway: it settles by itself, at once when asked, and outlives its Redis."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.ledger import Ledger, open_ledger
from gateway.ledger.questions import By, Question
from gateway.ledger.settle import STEP_ROWS
from jiffy.contract.errors import Unavailable
from tests import servers
from tests.ledger.conftest import opened
from tests.ledger.records import meter_into, record, waiting

pytestmark = pytest.mark.redis
TOTAL = Question("default", By.TOTAL)


async def _until(true: Callable[[], bool]) -> None:
    """Other processes' work gives no event to await: look, until the test's own timeout."""
    while not await asyncio.to_thread(true):
        await asyncio.sleep(0.01)


async def test_a_call_is_in_the_bill_as_soon_as_it_was_answered(ledger: Ledger, redis_url: str) -> None:
    one = record()
    meter_into(redis_url, one)
    assert [attempt.invocation for attempt in await ledger.invocation(one.invocation)] == [one.invocation]


async def test_a_question_settles_all_that_waits(ledger: Ledger, redis_url: str) -> None:
    meter_into(redis_url, *(record() for _ in range(2 * STEP_ROWS + 1)))
    assert await ledger.settle_now() == 0
    assert (await ledger.ask(TOTAL)).total.calls == 2 * STEP_ROWS + 1


async def test_behind_a_long_backlog_a_question_says_what_is_missing(ledger: Ledger, redis_url: str) -> None:
    meter_into(redis_url, *(record() for _ in range(STEP_ROWS + 5)))
    assert await ledger.settle_now(budget_s=0) == 5


async def test_it_settles_in_the_background_and_ends_in_order(tmp_path: Path, redis_url: str) -> None:
    async with opened(f"sqlite:///{tmp_path / 'l.sqlite3'}", redis_url) as ledger:
        ledger.keep()
        meter_into(redis_url, *(record() for _ in range(STEP_ROWS + 1)))
        await _until(lambda: waiting(redis_url) == 0)
        assert (await ledger.ask(TOTAL)).total.calls == STEP_ROWS + 1


async def test_gateways_on_one_ledger_agree(database_url: str, redis_url: str) -> None:
    async with opened(database_url, redis_url) as one, opened(database_url, redis_url) as other:
        one.keep()
        other.keep()
        meter_into(redis_url, *(record() for _ in range(STEP_ROWS)))
        await asyncio.gather(one.settle_now(), other.settle_now())
        answers = [await ledger.ask(TOTAL) for ledger in (one, other)]
        assert answers[0] == answers[1] and answers[0].total.calls == STEP_ROWS


async def test_gateways_that_start_together_on_a_new_database(database_url: str, redis_url: str) -> None:
    ledgers = await asyncio.gather(*(open_ledger(database_url, redis_url) for _ in range(4)))
    meter_into(redis_url, record())
    await ledgers[3].settle_now()
    assert {(await ledger.ask(TOTAL)).total.calls for ledger in ledgers} == {1}
    for ledger in ledgers:
        await ledger.close()


async def test_reopened_it_knows_everything(tmp_path: Path, redis_url: str) -> None:
    url = f"sqlite:///{tmp_path / 'l.sqlite3'}"
    async with opened(url, redis_url) as ledger:
        meter_into(redis_url, record())
        await ledger.settle_now()
    meter_into(redis_url, record())
    async with opened(url, redis_url) as ledger:
        await ledger.settle_now()
        assert (await ledger.ask(TOTAL)).total.calls == 2


async def test_it_is_its_users_alone_whatever_the_umask_is_or_was(tmp_path: Path, redis_url: str) -> None:
    path = tmp_path / "l.sqlite3"
    before = os.umask(0o022)
    try:
        for _ in range(2):
            async with opened(f"sqlite:///{path}", redis_url) as ledger:
                meter_into(redis_url, record())
                await ledger.settle_now()
                modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob("l.sqlite3*")}
                assert modes == {"l.sqlite3": 0o600, "l.sqlite3-wal": 0o600, "l.sqlite3-shm": 0o600}
            path.chmod(0o644)  # as an earlier release left it
    finally:
        os.umask(before)


async def test_it_waits_for_a_redis_that_went_away_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "jiffy.ledger")

    def said(text: str) -> int:
        return sum(text in one.getMessage() for one in caplog.records)

    with servers.valkey(persistent=True) as server:
        async with opened(f"sqlite:///{tmp_path / 'l.sqlite3'}", server.url) as ledger:
            ledger.keep()
            server.stop()
            await _until(lambda: said("wait in Redis") > 0)
            with pytest.raises(Unavailable):
                await ledger.settle_now()
            server.start()
            meter_into(server.url, record())
            await _until(lambda: waiting(server.url) == 0)
            await _until(lambda: said("settles again") > 0)
            assert (await ledger.ask(TOTAL)).total.calls == 1
    assert said("settles again") == 1


async def test_what_cannot_be_opened_is_unavailable(tmp_path: Path, redis_url: str) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await open_ledger(f"sqlite:///{tmp_path}/missing/l.sqlite3", redis_url)
    with pytest.raises(Unavailable, match="not the URL of a Redis"):
        await open_ledger(f"sqlite:///{tmp_path}/l.sqlite3", "http://nowhere")


async def test_the_password_of_a_database_is_not_shown(redis_url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await open_ledger("postgresql+psycopg://me:secret@/x?host=/nowhere&connect_timeout=2", redis_url)
    assert "secret" not in caught.value.message


async def test_the_event_loop_goes_on_while_a_backlog_is_settled(ledger: Ledger, redis_url: str) -> None:
    meter_into(redis_url, *(record() for _ in range(4 * STEP_ROWS)))
    turns = 0
    settling = asyncio.create_task(ledger.settle_now())
    began = time.monotonic()
    while not settling.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 4 * STEP_ROWS / 64, f"{turns} turns in {time.monotonic() - began:.2f} s"
