"""From measured microseconds to what is billed. Integers only; pure.

What a unit costs is the ledger's business (gateway/ledger/prices.py); how much was used is settled here, so that
the header a caller sees, the REPORT line and the bill can't differ.
"""

from __future__ import annotations

from . import limits
from .messages import Outcome


def billed_ms(duration_us: int, outcome: Outcome, step_ms: int = limits.BILLING_STEP_MS) -> int:
    """Billed time of one attempt in milliseconds: rounded up to `step_ms`, at least one step once the handler ran.

    An attempt that the platform failed, or that never began, costs nothing.
    """
    if not outcome.billable:
        return 0
    steps = -(-duration_us // (step_ms * 1000))
    return max(1, steps) * step_ms
