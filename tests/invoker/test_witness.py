"""What a forged stamp hides: next to nothing. What an honest one is held to: itself."""

from __future__ import annotations

import os

import pytest

from invoker.sandbox import Reply
from invoker.witness import AGENT_US, LOOK_US, UNSEEN_US, Witness, least_us
from tests.conftest import need

from .lab import Lab, call

FORGED = """
import sys, time
sys.modules["__main__"].run.__globals__["monotonic_ns"] = lambda: 0
def handler(event, context):
    end = time.thread_time() + event
    while time.thread_time() < end:
        pass
"""

SLACK_US = 10_000  # what a tick may not have told yet
# Children do the work; the first thread is always ready and seldom runs, of its own accord.
HIDDEN = """
import os, time
def handler(event, context):
    os.nice(19) if event == "nice" else os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    end = time.monotonic() + 0.25
    for _ in range(3):
        if not os.fork():
            while time.monotonic() < end:
                pass
            os._exit(0)
    while time.monotonic() < end:
        pass
"""


def test_an_honest_call_that_waited_for_a_processor_counts_as_it_says() -> None:
    assert least_us(10_000, 90_000, AGENT_US, waited_us=70_000, excess_us=-500) == 10_000
    assert least_us(10_000, 10_000 + UNSEEN_US, AGENT_US, waited_us=0, excess_us=-500) == 10_000, (
        "our own loop was busy"
    )


def test_a_thread_cannot_have_run_for_longer_than_its_calls_took() -> None:
    assert least_us(0, 90_000, AGENT_US, waited_us=90_000, excess_us=60_000) == 60_000
    assert least_us(0, 50_000, AGENT_US, waited_us=90_000, excess_us=60_000) == 50_000, "never more than was measured"


def test_what_nothing_explains_was_the_handler() -> None:
    assert least_us(0, 200_000, AGENT_US, waited_us=20_000, excess_us=-500) == 200_000 - 20_000 - AGENT_US - UNSEEN_US


def test_waiting_for_what_its_own_children_ran_is_none() -> None:
    whole = 200_000 - AGENT_US - UNSEEN_US
    assert least_us(0, 200_000, AGENT_US, waited_us=150_000, excess_us=-500, others_us=40_000) == whole - 110_000
    assert least_us(0, 200_000, AGENT_US, waited_us=150_000, excess_us=-500, others_us=400_000) == whole


def test_small_gaps_are_believed_and_add_up() -> None:
    witness = Witness()
    witness.watch(os.getpid(), 0)
    assert witness.held(100, 100 + LOOK_US, 0, 0) == 100
    sum(range(3_000_000))  # it runs, and claims nothing
    assert witness.held(0, 10**9, 0, 0) > 10**9 // 2
    witness.close()
    assert witness.held(5, 10**6, 0, 0) == 10**6 - AGENT_US - UNSEEN_US, "it took its counters along"
    assert Witness().held(5, 10**6, 0, 0) == 5, "nobody can say"


async def test_a_forged_clock_hides_no_computing(lab: Lab) -> None:
    instance = await lab.instance(FORGED)
    for spent_s in (0.05, 0.2):
        reply = await call(instance, spent_s)
        assert reply.duration_us == 0, "as forged"
        assert instance.held(0, int(2e6), 10, instance.cpu_us()) >= spent_s * 1e6 * 0.95 - AGENT_US


async def test_an_honest_handler_is_held_to_what_it_says(lab: Lab) -> None:
    instance = await lab.instance("def handler(event, context):\n    return sum(range(event))\n")
    for _ in range(5):
        claimed = (await call(instance, 100_000)).duration_us
        assert instance.held(claimed, claimed + LOOK_US + 1, 10, instance.cpu_us()) == claimed


@pytest.mark.root
@pytest.mark.parametrize("lab", ["bwrap"], indirect=True)
@pytest.mark.parametrize("way", ["nice", "affinity"])
async def test_a_thread_that_waits_on_purpose_hides_no_work_of_its_children(lab: Lab, way: str) -> None:
    instance = await lab.instance(HIDDEN)
    need("no control groups here" if instance._cell is None else "")
    before_us = instance.cpu_us()
    reply = await call(instance, way)
    assert isinstance(reply, Reply) and reply.ok, reply
    took_us, worked_us = reply.duration_us, instance.cpu_us() - before_us
    least = took_us if way == "nice" else min(took_us, worked_us)
    assert instance.held(1, took_us, 10, instance.cpu_us()) >= least - UNSEEN_US - SLACK_US
