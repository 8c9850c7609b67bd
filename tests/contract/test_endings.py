"""The time that processes get to end in adds up."""

from __future__ import annotations

import re
from pathlib import Path

from jiffy.contract import endings

REST_S = 2.0  # at least so much is left for what has no budget of its own: connections, files, the driver


def parts(process: str) -> float:
    return float(sum(value for name, value in vars(endings).items() if name.startswith(f"{process}_")))


def test_no_process_is_killed_while_it_keeps_its_own_budget() -> None:
    assert parts("GATEWAY") - endings.GATEWAY_S + REST_S <= endings.GATEWAY_S
    assert parts("INVOKER") + REST_S <= endings.WORKER_S
    assert parts("BUILDER") + REST_S <= endings.WORKER_S
    assert max(endings.GATEWAY_S, endings.WORKER_S, endings.QUEUE_S) < endings.ORPHANS_S


def test_a_caller_waits_as_long_as_his_call_may_take() -> None:
    assert endings.GATEWAY_CALLS_S >= endings.INVOKER_CALLS_S


def test_systemd_waits_as_long_as_we_do() -> None:
    unit = (Path(__file__).parents[2] / "deploy/jiffy.service").read_text()
    [waits_s] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(waits_s) >= endings.GATEWAY_S + endings.WORKER_S + endings.QUEUE_S + REST_S
