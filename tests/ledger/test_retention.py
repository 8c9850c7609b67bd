"""Single calls may be removed after a while: no sum and no statement changes, and nothing is billed twice by it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.ledger import Ledger, open_ledger
from gateway.ledger.months import parse
from gateway.ledger.questions import By, Question
from gateway.ledger.retention import DAY_MS, STEP_ROWS
from tests.ledger.records import NOON_MS, meter_into, record

pytestmark = pytest.mark.redis
ALL = Question("default", By.CALL, limit=10_000)


async def _opened(url: str, redis_url: str, keep_days: int) -> Ledger:
    return await open_ledger(url, redis_url, lambda: NOON_MS, None, keep_days)


async def test_old_calls_go_and_everything_else_stays(database_url: str, redis_url: str) -> None:
    old = [record(f"f{n % 3}", started_ms=NOON_MS - 40 * DAY_MS + n * 7_000_000) for n in range(20)]
    kept = [record("f1", started_ms=NOON_MS - n * DAY_MS) for n in range(35)]
    meter_into(redis_url, *old, *kept)
    ledger = await _opened(database_url, redis_url, 36)
    await ledger.settle_now()
    expected = {by: await ledger.ask(replace(ALL, by=by)) for by in By if by is not By.CALL}
    statement = await ledger.statement(parse("2026-09"), "default")
    gone = sum(one.started_ms < (NOON_MS // DAY_MS - 36) * DAY_MS for one in old)
    assert 0 < gone < 55 and await ledger.forget_old_calls() == gone and await ledger.forget_old_calls() == 0
    for by, answer in expected.items():
        assert await ledger.ask(replace(ALL, by=by)) == answer
    assert await ledger.statement(parse("2026-09"), "default") == statement
    calls = await ledger.ask(ALL)
    assert len(calls.rows) == calls.total.calls == 55 - gone  # what can be listed adds up, too
    await ledger.close()


async def test_an_hour_that_was_removed_is_asked_for_as_a_whole(database_url: str, redis_url: str) -> None:
    at = NOON_MS - 50 * DAY_MS
    meter_into(redis_url, record(started_ms=at), record(started_ms=at + 1_800_000))
    ledger = await _opened(database_url, redis_url, 40)
    await ledger.settle_now()
    half = replace(ALL, by=By.TOTAL, since_ms=at + 1_000_000, until_ms=at + 2_000_000)
    assert (await ledger.ask(half)).total.calls == 1
    await ledger.forget_old_calls()
    assert (await ledger.ask(half)).total.calls == 2
    await ledger.close()


async def test_a_record_of_a_removed_call_that_comes_again_is_not_billed_again(
    database_url: str, redis_url: str
) -> None:
    one = record(started_ms=NOON_MS - 50 * DAY_MS)
    meter_into(redis_url, one)
    ledger = await _opened(database_url, redis_url, 40)
    await ledger.settle_now()
    before = (await ledger.ask(replace(ALL, by=By.TOTAL))).total
    assert await ledger.forget_old_calls() == 1
    meter_into(redis_url, one)  # a Redis restored from an older state
    await ledger.settle_now()
    assert (await ledger.ask(replace(ALL, by=By.TOTAL))).total == before
    await ledger.close()


async def test_many_are_removed_in_steps_and_without_the_option_none(tmp_path: Path, redis_url: str) -> None:
    url = f"sqlite:///{tmp_path / 'l.sqlite3'}"
    meter_into(redis_url, *(record(started_ms=NOON_MS - 90 * DAY_MS) for _ in range(STEP_ROWS + 5)))
    ledger = await _opened(url, redis_url, 0)
    await ledger.settle_now()
    assert await ledger.forget_old_calls() == 0
    total = (await ledger.ask(ALL)).total
    await ledger.close()
    ledger = await _opened(url, redis_url, 60)
    assert await ledger.forget_old_calls() == STEP_ROWS + 5
    assert (await ledger.ask(replace(ALL, by=By.TOTAL))).total.price == total.price > Decimal(0)
    await ledger.close()
