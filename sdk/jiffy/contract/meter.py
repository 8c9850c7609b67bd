"""From measured microseconds to what is billed. Integers only; pure.

What a unit costs is the ledger's business (gateway/ledger/prices.py); how much was used is settled here, once, so that
the header a caller sees, the REPORT line and the bill can't differ. The tariff travels with the call: a gateway takes
it from the price book in force, and the invoker applies it.
"""

from __future__ import annotations

from typing import NamedTuple

from . import limits
from .messages import Outcome


class Tariff(NamedTuple):
    """How a price book turns time into billed time."""

    book: int = 0  # its version; 0: the ledger looks up which book was in force
    step_ms: int = limits.BILLING_STEP_MS
    minimum_ms: int = 0
    bill_init: bool = False  # is the time of a cold start billed, too?


DEFAULT = Tariff()


def billed_ms(duration_us: int, outcome: Outcome, tariff: Tariff = DEFAULT, init_us: int = 0) -> int:
    """Billed time of one attempt in milliseconds: rounded up to whole steps, at least one step and the minimum.

    An attempt that the platform failed, or that never began, costs nothing.
    """
    if not outcome.billable:
        return 0
    step_us = tariff.step_ms * 1000
    used_us = max(duration_us + init_us if tariff.bill_init else duration_us, tariff.minimum_ms * 1000)
    return max(1, -(-used_us // step_us)) * tariff.step_ms
