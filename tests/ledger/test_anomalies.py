"""Functions whose daily cost left its usual range, by the rule and in the bill."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from gateway.ledger import Ledger
from gateway.ledger.anomalies import WORTH, unusual, usual
from tests.ledger.records import NOON_MS, meter_into, record
from tests.ledger.test_bill import Bill, bill, url
from tests.ledger.test_costs_route import DAY_MS, http

__all__ = ["bill", "http", "url"]
UNIT = 100 * WORTH
TODAY = 1000


def days(*costs: int) -> dict[int, int]:
    """The last of them is today's."""
    return {TODAY - len(costs) + 1 + n: cost * UNIT for n, cost in enumerate(costs)}


def test_one_wild_day_makes_no_other_day_unusual_and_hides_none() -> None:
    assert usual([10, 11, 9, 1000, 10, 10, 9]) == (5, 15)
    assert unusual(days(10, 11, 9, 1000, 10, 10, 9, 11, 12), TODAY) is None
    assert unusual(days(10, 11, 9, 1000, 10, 10, 9, 11, 100), TODAY) == (TODAY, 5 * UNIT, 15 * UNIT)


def test_what_varies_may_vary() -> None:
    costs = (10, 60, 30, 80, 20, 50, 70, 40)
    assert unusual(days(*costs, 100), TODAY) is None
    assert unusual(days(*costs, 300), TODAY) is not None


def test_today_is_not_over_and_yesterday_is() -> None:
    assert unusual(days(10, 10, 10, 10, 10, 10, 10, 10, 0), TODAY) is None
    assert unusual(days(10, 10, 10, 10, 10, 10, 10, 1, 0), TODAY) == (TODAY - 1, 5 * UNIT, 15 * UNIT)


def test_days_without_calls_count_and_few_days_say_nothing() -> None:
    assert unusual({TODAY - 20: 10 * UNIT, TODAY: 10 * UNIT}, TODAY) == (TODAY, 0, 0)
    assert unusual(days(10, 10, 10, 10, 10, 10, 900), TODAY) is None
    assert unusual({}, TODAY) is None
    assert unusual(dict.fromkeys(range(TODAY - 10, TODAY), 0) | {TODAY: WORTH}, TODAY) is None


def _weeks(redis_url: str) -> None:
    """`dear` costs 0.15 a day for two weeks, and 0.75 today; `cheap` always the same."""
    for day in range(14, -1, -1):
        at_ms = NOON_MS - day * DAY_MS
        dear = 5 if day == 0 else 1
        big = [
            record("dear", started_ms=at_ms - n, duration_us=900_000_000, memory_mb=10_240, tags="team=x")
            for n in range(dear)
        ]
        meter_into(redis_url, *big, record("cheap", started_ms=at_ms))


@pytest.mark.redis
async def test_the_route_and_the_log_tell(
    http: httpx.AsyncClient, ledger: Ledger, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _weeks(redis_url)
    [found] = (await http.get("/v1/costs/anomalies")).json()["anomalies"]
    assert (found["function"], found["day"]) == ("dear", "2026-11-01")
    assert (found["cost"], found["usual_high"]) == ("0.7500025", "0.22500075")
    assert found["usual_low"] == "0.07500025"
    [one] = await ledger.anomalies(None)
    assert (one.tenant, one.function) == ("default", "dear")
    assert await ledger.anomalies("nobody") == []
    with caplog.at_level(logging.WARNING, "jiffy.ledger"):
        ledger.keep()
        async with asyncio.timeout(10):
            while not caplog.records:
                await asyncio.sleep(0.01)  # a log tells nobody
    assert [r.message.count('"cost.unusual"') for r in caplog.records] == [1]


@pytest.mark.redis
def test_the_bill_tells(bill: Bill, redis_url: str) -> None:
    _weeks(redis_url)
    line = "Unusual: dear cost 0.750 USD on 2026-11-01; on most days it is 0.0750 to 0.225."
    assert line in bill("--by", "function").stdout
    assert "Unusual" not in bill("--format", "csv").stdout
