"""What calls spend of budgets: how much one may cost, what it did cost, and for how long room is held for it. Pure.

A call under a budget carries a Hold from the gateway that let it in to the invoker that completes it; the counters it
names are changed in the step that writes its end. Amounts are whole numbers of 10^-DIGITS of the currency, each
attempt rounded up: small enough for any price, and few enough digits for Redis's integers. The bill is exact and
knows nothing of them. Budgets themselves: gateway/budgets.
"""

from __future__ import annotations

from typing import NamedTuple

DIGITS = 12
RATE_DIGITS = 18  # of a rate: what a millisecond of one function costs
AMOUNT_MAX = 9_000_000  # of any budget; a Redis counter ends at 9.2 million
SLOT_MS = 300_000  # room is held until the end of such a span, so that what a lost host held comes back by itself
ASYNC_HOLD_MS = 3_600_000  # how long room is held for a call that nobody waits for
KEEP_S = 70 * 86400  # counters, beyond the longest period

SPENT = "spent"  # fields of the hash keys.spending: by calls that were let in since the budget was set …
SEED = "seed"  # … and by those before, from the ledger


class Hold(NamedTuple):
    """What one call may spend, and of which counters."""

    per_ms: int  # of billed time, in 10^-RATE_DIGITS
    per_call: int  # likewise
    worst: int  # in 10^-DIGITS: what is held for it until it has ended; 0: nothing
    slot: int  # where it is held
    keys: tuple[str, ...]  # keys.spending
    places: tuple[str, ...] = ()  # keys.quota_places: it holds one place in each

    @property
    def holds(self) -> bool:
        """Is there anything to give back when it is not run?"""
        return self.worst > 0 or bool(self.places)


def cost(per_ms: int, per_call: int, billed_ms: int) -> int:
    """What one attempt spends; as in the ledger, one without billed time costs nothing."""
    return -(-(billed_ms * per_ms + per_call) // 10 ** (RATE_DIGITS - DIGITS)) if billed_ms else 0


def held(slot: int) -> str:
    """The field of what is held in one slot."""
    return f"held:{slot}"


def slot_of(moment_ms: int) -> int:
    """The slot in which `moment_ms` lies."""
    return moment_ms // SLOT_MS
