"""A short run of the chaos suite, always of the same seeds; longer ones: ``python -m tests.chaos``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from invoker.drivers import DriverConfig, choose
from jiffy.contract.errors import Unavailable
from tests.chaos.run import Plan, run, troubles
from tests.chaos.schedule import Event, Kind, schedule
from tests.conftest import need

TARGETS = ("redis", "gw-1", "gw-2", "inv-1", "inv-2", "disk", "engine")


def test_a_seed_makes_the_same_schedule_again_and_nobody_suffers_two_things_at_a_time() -> None:
    events = list(schedule(7, TARGETS, 300.0, 0.5))
    assert events == list(schedule(7, TARGETS, 300.0, 0.5)) != list(schedule(8, TARGETS, 300.0, 0.5))
    assert {event.kind for event in events} == set(Kind) and {event.target for event in events} == set(TARGETS)
    last: dict[str, Event] = {}
    for event in events:
        before = last.get(event.target)
        assert before is None or before.at_s + before.seconds < event.at_s
        last[event.target] = event


@pytest.mark.redis
async def test_whatever_happens_the_books_balance_to_the_call() -> None:
    """What has happened is printed, and is the same again with the same seed."""
    wanted = {"hosts", "disk"}
    found = troubles()
    if os.geteuid() == 0:
        for part in sorted(wanted):
            need(found[part])
    parts = frozenset(part for part in wanted if not found[part])  # without root: processes alone
    plan = Plan(seed=11, seconds=7.0, invokers=2, callers=1, mean_s=0.6, with_=parts)
    print(plan)
    with tempfile.TemporaryDirectory(prefix="jiffy-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # functions' users enter it
        try:
            await (await choose("bwrap", DriverConfig(folder, "probe"))).close()
        except Unavailable as exc:
            need(exc.message)
        report = await run(plan, folder, print)
    print(report)
    assert report.broken == []
    assert report.accepted and report.answered and report.keyed and report.published and report.events
