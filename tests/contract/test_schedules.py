"""When schedules tick: summer time, rates, one-shots, bounds, and what is made of ticks that were missed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jiffy.contract import triggers
from jiffy.contract.schedules import LATE_MAX_MS, Schedule, schedule
from jiffy.contract.triggers import TriggerError

DAY_MS = 86_400_000


def made(since_ms: int = 0, **table: Any) -> Schedule:
    (complete,) = triggers.check([{"type": "schedule", **table}])
    return schedule(complete, since_ms)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def utc(at: int | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat()[:-6]


def ticks(one: Schedule, start: str, count: int) -> list[str]:
    at, found = ms(start), []
    while len(found) < count and (tick := one.after(at)) is not None:
        found.append(utc(tick))
        at = tick
    return found


@pytest.mark.parametrize(
    ("table", "start", "expected"),
    [
        ({"cron": "*/2 * * * * *"}, "2027-01-01T00:00:01", ["2027-01-01T00:00:02", "2027-01-01T00:00:04"]),
        ({"cron": "@daily"}, "2027-01-01T00:00:00", ["2027-01-02T00:00:00", "2027-01-03T00:00:00"]),
        ({"cron": "0 9 * * mon-fri"}, "2027-01-01T10:00:00", ["2027-01-04T09:00:00", "2027-01-05T09:00:00"]),
        ({"cron": "0 0 1 jan,jul *"}, "2027-01-01T10:00:00", ["2027-07-01T00:00:00", "2028-01-01T00:00:00"]),
        ({"at": "2027-05-01T09:00:00", "timezone": "Asia/Tokyo"}, "2027-01-01T00:00:00", ["2027-05-01T00:00:00"]),
        ({"at": "2027-05-01T09:00:00Z"}, "2027-05-01T09:00:00", []),
        # The night of 2027-03-28 has no 02:30 in Berlin, that of 2027-10-31 has it twice: it comes once in each.
        (
            {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
            "2027-03-27T00:00:00",
            ["2027-03-27T01:30:00", "2027-03-28T01:00:00", "2027-03-29T00:30:00"],
        ),
        (
            {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
            "2027-10-30T12:00:00",
            ["2027-10-31T00:30:00", "2027-11-01T01:30:00"],
        ),
        (
            {"cron": "@hourly", "start": "2027-01-01T02:00:00Z", "end": "2027-01-01T04:00:00Z"},
            "2026-01-01T00:00:00",
            ["2027-01-01T02:00:00", "2027-01-01T03:00:00"],
        ),
        (
            {"rate": "rate(1 day)", "start": "2027-01-01T02:00:00Z"},
            "2026-12-01T00:00:00",
            ["2027-01-01T02:00:00", "2027-01-02T02:00:00"],
        ),
    ],
)
def test_ticks(table: dict[str, Any], start: str, expected: list[str]) -> None:
    assert ticks(made(**table), start, len(expected) or 1) == expected


def test_a_rate_counts_from_when_it_was_first_seen() -> None:
    one = made(since_ms=ms("2027-01-01T00:00:07"), rate="rate(5 minutes)")
    assert ticks(one, "2027-01-01T00:00:07", 2) == ["2027-01-01T00:05:07", "2027-01-01T00:10:07"]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [("skip", "2027-01-03T01:00:00"), ("one", "2027-01-03T00:00:00"), ("all", "2027-01-01T01:00:00")],
)
def test_what_was_missed_while_the_platform_was_down(catch_up: str, expected: str) -> None:
    one = made(cron="@hourly", catch_up=catch_up)
    last, now = ms("2027-01-01T00:00:00"), ms("2027-01-03T00:30:00")
    assert utc(one.due(last, now)) == expected


def test_a_one_shot_is_not_lost_to_a_downtime_unless_it_may_be() -> None:
    at, now = "2027-01-01T00:00:00Z", ms("2027-01-02T00:00:00")
    assert utc(made(at=at).due(0, now)) == "2027-01-01T00:00:00"
    assert made(at=at, catch_up="skip").due(0, now) is None


def test_a_tick_that_is_merely_late_is_no_missed_one() -> None:
    one = made(cron="@hourly")
    last, tick = ms("2027-01-01T00:00:00"), ms("2027-01-01T01:00:00")
    assert one.due(last, tick + LATE_MAX_MS) == tick
    assert one.due(last, tick + LATE_MAX_MS + 1) == tick + 3_600_000


@given(
    st.sampled_from([{"cron": "*/7 * * * *"}, {"cron": "@hourly"}, {"rate": "rate(11 minutes)"}]),
    st.sampled_from(["skip", "one", "all"]),
    st.integers(0, DAY_MS),
    st.integers(0, DAY_MS),
)
def test_a_due_tick_is_a_tick_and_never_one_that_was_dealt_with(
    table: dict[str, str], catch_up: str, last: int, later: int
) -> None:
    start = ms("2027-06-01T00:00:00")
    one = made(since_ms=start, catch_up=catch_up, **table)
    due = one.due(start + last, start + last + later)
    assert due is not None
    assert due > start + last
    assert one.after(due - 1) == due


@given(st.integers(0, 10_000))
def test_jitter_is_within_its_bound_and_alike_in_every_gateway(tick: int) -> None:
    one = made(cron="@hourly", jitter_s=2.5)
    assert 0 <= one.delay_ms("f/t", tick) < 2500
    assert one.delay_ms("f/t", tick) == made(cron="@hourly", jitter_s=2.5).delay_ms("f/t", tick)
    assert made(cron="@hourly").delay_ms("f/t", tick) == 0


@pytest.mark.parametrize("key", ["at", "start", "end"])
@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00", "9000-01-01T00:00:00Z"])
def test_a_time_that_no_zone_can_hold_is_refused(key: str, text: str) -> None:
    table = {key: text} if key == "at" else {"cron": "@daily", key: text}
    with pytest.raises(TriggerError, match="8999"):
        made(**table)


def test_a_schedule_at_the_end_of_time_ends() -> None:
    last = made(rate="rate(999999 days)", start="8999-12-31T23:59:59Z")
    assert last.after(last.start_ms) is None
    assert made(cron="@yearly", start="8999-12-31T23:59:59").after(0) is None
