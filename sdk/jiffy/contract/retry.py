"""What follows when an attempt at an asynchronous call has ended: a result, another attempt, or a dead letter. Pure.

The invoker asks `after` and writes what it says in the step that completes the attempt, so no crash can lie between
the end of one attempt and the decision about the next. Pauses are exponential with full jitter, after AWS's
"Exponential Backoff And Jitter": calls that failed together do not come back together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from . import limits
from .messages import Outcome, State, Terms

PLATFORM_RETRIES = 2  # what a call gets at least when we failed it while it ran: it may be what kills invokers
UNBEGUN_RETRIES = 20  # and when we could not even begin it: about five hours of trying, by their pauses
UNBEGUN_MS = 1000  # the shortest first pause where nothing limits how often it is tried
PAUSE_MAX_MS = int(limits.BACKOFF_MAX_S * 1000)
DOUBLINGS_MAX = 32  # beyond any useful pause, and small enough for a shift


class Reason(StrEnum):
    """Why a call is dead."""

    FAILED = "retries_exhausted"  # the function failed once more than `retries` allows
    PLATFORM = "platform_failed"  # the platform failed it, while it ran or before, too often
    EXPIRED = "expired"  # the next attempt would begin after `max_age_s`


class Verdict(NamedTuple):
    state: State  # DONE, DEAD or QUEUED: another attempt
    due_ms: int = 0  # QUEUED: when it may begin
    terms: Terms | None = None  # QUEUED: what is left of them
    reason: str = ""  # DEAD: Reason


def after(outcome: Outcome, began: bool, terms: Terms, now_ms: int, chance: float) -> Verdict:
    """`began`: did the handler run? `chance`: a random number, 0 ≤ chance < 1.

    What never began, because of a limit or because the platform failed, uses up no retry. Its age ends it, or the
    platform that could not begin it so often that it will not do so any more.
    """
    if outcome is Outcome.OK:
        return Verdict(State.DONE)
    counts = began or outcome.billable  # a failed import never ran the handler, and is the function's failure
    failed = terms.failed + counts
    allowed = max(terms.retries, PLATFORM_RETRIES) if outcome is Outcome.PLATFORM else terms.retries
    if counts and failed > allowed:
        return Verdict(State.DEAD, reason=Reason.PLATFORM if outcome is Outcome.PLATFORM else Reason.FAILED)
    unbegun = terms.unbegun + (outcome is Outcome.PLATFORM and not counts)
    if unbegun > UNBEGUN_RETRIES:
        return Verdict(State.DEAD, reason=Reason.PLATFORM)
    tried = terms.tried + 1
    backoff_ms = terms.backoff_ms if counts else max(terms.backoff_ms, UNBEGUN_MS)
    due_ms = now_ms + int(chance * (longest_ms(backoff_ms, tried) + 1))
    if due_ms > terms.expires_ms:
        return Verdict(State.DEAD, reason=Reason.EXPIRED)
    return Verdict(State.QUEUED, due_ms, terms._replace(tried=tried, failed=failed, unbegun=unbegun))


def longest_ms(backoff_ms: int, tried: int) -> int:
    """The longest pause after the `tried`-th attempt: doubling from `backoff_ms`, at most an hour."""
    return min(PAUSE_MAX_MS, backoff_ms << min(tried - 1, DOUBLINGS_MAX))
