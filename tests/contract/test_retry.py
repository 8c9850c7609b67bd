"""What follows an attempt, over every outcome, age and chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jiffy.contract import limits, retry
from jiffy.contract.messages import Outcome, State, Terms
from jiffy.contract.retry import Reason

NOW = 1_800_000_000_000
CHANCES = st.floats(0, 1, exclude_max=True)
FAILURES = (Outcome.ERROR, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY, Outcome.CRASH)
TERMS = st.builds(
    Terms,
    retries=st.integers(0, limits.RETRIES_MAX),
    expires_ms=st.integers(NOW - 1000, NOW + 10**9),
    backoff_ms=st.integers(0, int(limits.BACKOFF_MAX_S * 1000)),
    tried=st.integers(0, 10_000),
    failed=st.integers(0, limits.RETRIES_MAX),
)


@given(st.sampled_from(Outcome), st.booleans(), TERMS, CHANCES)
def test_every_attempt_has_one_of_three_ends(outcome: Outcome, began: bool, terms: Terms, chance: float) -> None:
    verdict = retry.after(outcome, began, terms, NOW, chance)
    assert verdict.state in (State.DONE, State.QUEUED, State.DEAD)
    assert (verdict.state is State.DONE) == (outcome is Outcome.OK)
    assert bool(verdict.reason) == (verdict.state is State.DEAD)
    if verdict.state is State.QUEUED:
        assert NOW <= verdict.due_ms <= terms.expires_ms, "no attempt begins after the call's age ends"
        assert verdict.terms is not None and verdict.terms.tried == terms.tried + 1


@given(st.sampled_from(FAILURES), st.integers(0, limits.RETRIES_MAX), CHANCES)
def test_a_function_that_fails_gets_its_retries_and_no_more(outcome: Outcome, retries: int, chance: float) -> None:
    terms, attempts = Terms(retries, NOW + 10**12), 1
    while (verdict := retry.after(outcome, True, terms, NOW, chance)).state is State.QUEUED:
        assert verdict.terms is not None
        terms, attempts = verdict.terms, attempts + 1
    assert attempts == retries + 1
    assert verdict.reason == Reason.FAILED


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
def test_a_call_that_the_platform_failed_is_tried_again_but_not_for_ever(retries: int) -> None:
    terms, attempts = Terms(retries, NOW + 10**12), 1
    while (verdict := retry.after(Outcome.PLATFORM, True, terms, NOW, 0.5)).state is State.QUEUED:
        assert verdict.terms is not None
        terms, attempts = verdict.terms, attempts + 1
    assert attempts == max(retries, retry.PLATFORM_RETRIES) + 1
    assert verdict.reason == Reason.PLATFORM


@given(st.sampled_from((Outcome.THROTTLED, Outcome.PLATFORM)), CHANCES)
def test_what_never_began_uses_up_no_retry_and_is_not_tried_in_a_hurry(outcome: Outcome, chance: float) -> None:
    terms = Terms(0, NOW + 10**12, backoff_ms=0)
    for tried in range(1, retry.UNBEGUN_RETRIES + 1):
        verdict = retry.after(outcome, False, terms, NOW, chance)
        assert verdict.state is State.QUEUED and verdict.terms is not None
        terms = verdict.terms
        assert (terms.tried, terms.failed) == (tried, 0)
        assert verdict.due_ms - NOW <= retry.longest_ms(retry.UNBEGUN_MS, tried)
    assert retry.after(outcome, False, Terms(0, NOW - 1), NOW, chance).reason == Reason.EXPIRED


def test_what_the_platform_can_never_begin_is_not_tried_for_ever_but_a_limit_may_hold_for_as_long_as_it_likes() -> None:
    terms = Terms(0, NOW + 10**12, unbegun=retry.UNBEGUN_RETRIES)
    assert retry.after(Outcome.PLATFORM, False, terms, NOW, 0.5) == retry.Verdict(State.DEAD, reason=Reason.PLATFORM)
    assert retry.after(Outcome.THROTTLED, False, terms, NOW, 0.5).state is State.QUEUED


def test_a_failed_import_counts_though_no_handler_ran() -> None:
    assert retry.after(Outcome.ERROR, False, Terms(0, NOW + 10**9), NOW, 0.5).reason == Reason.FAILED


def test_pauses_double_up_to_an_hour() -> None:
    assert [retry.longest_ms(1000, n) for n in (1, 2, 3, 4)] == [1000, 2000, 4000, 8000]
    assert retry.longest_ms(1000, 13) == retry.longest_ms(1000, 10_000) == 3_600_000
    assert retry.longest_ms(0, 10) == 0


@given(st.integers(1, 60), st.integers(1, 3_600_000))
def test_jitter_is_full(tried: int, backoff_ms: int) -> None:
    """From no pause at all to the longest: calls that failed together spread over the whole of it."""
    terms = Terms(100, NOW + 10**12, backoff_ms, tried=tried - 1)
    least = retry.after(Outcome.ERROR, True, terms, NOW, 0.0).due_ms
    most = retry.after(Outcome.ERROR, True, terms, NOW, 1 - 2**-53).due_ms
    assert least == NOW
    assert most - NOW == retry.longest_ms(backoff_ms, tried)
